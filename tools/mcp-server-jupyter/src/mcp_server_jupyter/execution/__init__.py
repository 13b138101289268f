"""Running code: sessions, queues, executions, their outputs on the way into the notebook. For services and above."""
