"""Tasks for learners and blind checks of their work. Above the services, beside `runs`; for doors.

`service.open_tutor` is where it begins. Nothing is imported here: the processes that tests run in have what
`blind.forkserver` imports, and no more.
"""
