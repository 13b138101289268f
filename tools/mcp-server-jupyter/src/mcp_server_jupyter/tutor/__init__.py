"""Tasks for learners and blind checks of their work. Above the services, beside `runs`; for doors.

`service.open_tutor` is where it begins. Nothing is imported here: the process that tests run in imports
`blind.checker`, and every check pays for that.
"""
