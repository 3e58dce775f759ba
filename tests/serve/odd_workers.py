"""A fork server whose workers end as the model's bytes say, or say something beside their answer."""

from __future__ import annotations

import io
import json
import os
import signal
import sys

from mlbox.serve.inference import check_worker
from mlbox.store.sandbox.forkserver import main


def odd() -> None:
    text = sys.stdin.read()
    with open(json.loads(text)["model"], "rb") as file:
        how, _, what = file.read(40).partition(b" ")
    if how == b"kill":
        os.kill(os.getpid(), signal.Signals[what.decode()])
    if how == b"exit":
        os._exit(int(what))
    sys.stdin = io.StringIO(text)
    examine = check_worker.examine_model

    def noisy(task: dict[str, object]) -> dict[str, object]:
        print("noise", flush=True)
        return examine(task)

    check_worker.examine_model = noisy
    check_worker.main()


if __name__ == "__main__":
    main({"check": odd}, lambda: None)
