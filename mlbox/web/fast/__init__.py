"""The fast path: requests that are asked for thousands of times a second, answered where they come off the wire.

An adapter lists such a handler beside the others: `fast = [Fast(infer, ...)]`. Its requests are then answered by a plain
function, without a task, an ASGI call or the router, as long as they are plain themselves. Whatever is out of the ordinary
(chunks, compression, cookies, a credential that is not known yet, a client that does not read) is handed to the app as if it had
not been looked at. Who may ask, what a request may hold, errors, the access log and headers are the app's own functions, and the
setting `fast_path` switches all of it off: the answers are the same bytes.
"""
