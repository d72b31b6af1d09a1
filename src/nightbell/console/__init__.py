"""The web page: what the observatory does, how old each number is, and the commands of the night.

    module.py      the bus on one side: events heard, modules asked for their status, audit told
    watch.py       what each module said last, and when                       (threads)
    tiles.py       statuses -> tiles: rows of words, numbers and ages          pure
    words.py       events -> lines of the log, and the frames they name     pure
    actions.py     which button sends what to whom, and who may press it       table
    users.py       accounts, sessions, one-time links                          SQLite
    guarding.py    Host, origin, token, headers: what every request must pass
    live.py        server-sent events: bounded queues, a slow phone costs only itself
    preview.py     a frame as a picture, made in a child process
    errands.py     what blocks, each in a thread of its own: nothing that hangs keeps an abort from going out
    app.py         pages and commands; templates/ and static/ beside it
    serving.py     the web server in a thread of its own
    settings.py

Public: app.make_app, settings.ConsoleSettings. The pages work without JavaScript and without the broker; nothing foreign is loaded.
"""
