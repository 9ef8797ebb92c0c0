"""A worker of the toy study whose cells fail while another thread goes on, for test_study.py."""

import threading
from unittest import mock

from toy import study_worker


def serve(connection, folder, log) -> None:
    def run(cell, *_):
        threading.Thread(target=threading.Event().wait).start()
        raise ValueError(f"no luck with {cell.name}")

    with mock.patch.object(study_worker, "run", run):
        REAL(connection, folder, log)


REAL = study_worker.serve
