"""The admin API: a table of routes (table.py), and the listener that serves it (server.py).

Only server.py, middleware.py, pages.py and sockets.py know aiohttp: a command that works on
the store here uses the table without it, and starts in half the time.
"""
