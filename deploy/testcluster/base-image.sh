# Turn a Debian root with Debian's Python into the layout of the official Python image: the interpreter and its library
# under /usr/local, packages in /usr/local/lib/python3.11/site-packages, no Python of the distribution.
# Run with the root directory as the one argument, in a mount namespace of its own.
root=$1
version=3.11
library=$root/usr/local/lib/python$version

mkdir -p "$root/moved/bin"
cp -a "$root/usr/lib/python$version" "$root/moved/library"
cp "$root/usr/bin/python$version" "$root/moved/bin/"
chroot "$root" dpkg --purge python3 python3-minimal python3-venv "python$version-venv" python3-distutils python3-lib2to3 libpython3-stdlib \
    "python$version" "python$version-minimal" "libpython$version-stdlib" "libpython$version-minimal" >/dev/null

rm -rf "$library"
mv "$root/moved/library" "$library"
mv "$root/moved/bin/python$version" "$root/usr/local/bin/"
# site.py is compiled into the interpreter, too: of its directories only this name can be changed there.
LC_ALL=C sed -i 's/dist-packages/site-packages/g' "$root/usr/local/bin/python$version"
rm -r "$root/moved"

cd "$library"
mkdir -p site-packages
find . -name __pycache__ -prune -exec rm -rf {} +
rm -f EXTERNALLY-MANAGED _distutils_system_mod.py sitecustomize.py
# Undo what Debian changes: its own directories and its own default scheme.
sed -i \
    -e '/^    is_virtual_environment = /d' \
    -e '/^            if is_virtual_environment:/,/^            # this one is deprecated/d' \
    -e 's/"dist-packages")$/"site-packages")/' site.py
sed -i "s/prefix_scheme = 'posix_local'/prefix_scheme = 'posix_prefix'/" sysconfig.py
sed -i "s#/usr/\(bin\|include\|lib\)#/usr/local/\1#g; s#'/usr'#'/usr/local'#g" _sysconfigdata_*.py

cd "$root/usr/local/bin"
ln -s "python$version" python3
ln -s python3 python

mount -t proc proc "$root/proc"
chroot "$root" /usr/local/bin/python3 -B -c "
import glob, site, sys, sysconfig
packages = '/usr/local/lib/python$version/site-packages'
assert (sys.prefix, sys.base_prefix) == ('/usr/local', '/usr/local'), sys.prefix
assert site.getsitepackages()[-1] == packages, site.getsitepackages()
assert sysconfig.get_path('purelib') == sysconfig.get_path('platlib') == packages, sysconfig.get_paths()
assert sysconfig.get_path('scripts') == '/usr/local/bin', sysconfig.get_paths()
assert sysconfig.get_config_var('prefix') == '/usr/local', sysconfig.get_config_var('prefix')
assert packages in sys.path, sys.path
import ctypes, hashlib, lzma, sqlite3, ssl, zlib
wheels = [glob.glob(sysconfig.get_config_var('WHEEL_PKG_DIR') + f'/{name}-*.whl')[0] for name in ('pip', 'setuptools', 'wheel')]
sys.path.insert(0, wheels[0])
sys.argv = ['pip', 'install', '--quiet', '--no-index', '--no-compile', '--root-user-action=ignore', *wheels]
import runpy
runpy.run_module('pip', run_name='__main__')
"
test -x "$root/usr/local/bin/pip"

cd "$root"
rm -rf var/cache/apt/*.bin var/cache/apt/archives/*.deb var/lib/apt/lists/* var/log/*.log usr/share/doc usr/share/man
