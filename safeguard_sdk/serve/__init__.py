"""The service: a guard over HTTP, for programs and for people. Needs the extra `serve`.

    safeguard serve --policy shop.yaml

    HTTP → bodies (limits) → decoding threads → batching → one engine thread (judging, prefixes) → verdict

app.py puts the routes together and server.py runs them; docs/serve.md says what they answer.
"""
