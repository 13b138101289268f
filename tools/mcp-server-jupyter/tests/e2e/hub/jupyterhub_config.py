"""A hub for the tests: the services, roles, groups and hooks of deploy/jupyterhub, on local processes."""

import json
import os

from jupyterhub.spawner import SimpleLocalProcessSpawner

c = get_config()  # noqa: F821 - given by JupyterHub
given = json.loads(os.environ["E2E_HUB"])


class Spawner(SimpleLocalProcessSpawner):
    """Some users have an image of their own: another command, with an environment of its own."""

    async def start(self):
        image = given["images"].get(self.user.name)
        if image:
            self.cmd = image["command"]
            self.environment = {**self.environment, **image["environment"]}
        return await super().start()


c.JupyterHub.bind_url = f"http://127.0.0.1:{given['port']}"
c.JupyterHub.hub_ip = "127.0.0.1"
c.JupyterHub.hub_port = given["hub_port"]
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{given['proxy_port']}"
c.ConfigurableHTTPProxy.command = given["proxy"]
c.ConfigurableHTTPProxy.pid_file = os.path.join(given["folder"], "proxy.pid")
c.JupyterHub.cookie_secret_file = os.path.join(given["folder"], "cookie_secret")
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.last_activity_interval = 5
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = Spawner
c.SimpleLocalProcessSpawner.home_dir_template = os.path.join(given["folder"], "home", "{username}")
c.Spawner.args = ["--allow-root"]
c.Spawner.cmd = given["singleuser"]
c.Spawner.ip = "127.0.0.1"
c.Spawner.http_timeout = 120
# Without a terminal nobody answers Jupyter's question whether it is to end.
c.SimpleLocalProcessSpawner.interrupt_timeout = 1
# One with live documents open takes half a minute to end by itself.
c.SimpleLocalProcessSpawner.term_timeout = 5
c.Spawner.environment = {"JUPYTERHUB_ACTIVITY_INTERVAL": "5"}
c.JupyterHub.load_groups = given["groups"]
c.JupyterHub.services = given["services"]
c.JupyterHub.load_roles = given["roles"]
for source in given["extra_config"]:
    exec(source)
