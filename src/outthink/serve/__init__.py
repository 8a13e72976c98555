"""An OpenAI-compatible server whose clients can ask it to think, and a page to watch it.

Its dependencies are those of the extra ``serve``; nothing outside this room imports them.
"""
