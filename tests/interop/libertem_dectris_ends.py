"""LiberTEM's ends of Stream V1, in its environment. Usage: read URI FILE.npy | send URI

`read` waits for a series and saves its frames, by LiberTEM's receiver; `send` is its simulated detector, which begins with a line
of input.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from libertem_dectris import CamClient, DectrisConnection, DectrisSim

STACK, LARGEST = 4, 1 << 20


def read(uri: str, file: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        connection = DectrisConnection(
            uri=uri,
            frame_stack_size=STACK,
            handle_path=str(Path(folder) / "handle"),
            num_slots=100,
            bytes_per_frame=LARGEST,
            huge=False,
        )
        connection.start_passive(timeout=60)
        print("listening", flush=True)
        armed = connection.wait_for_arm(timeout=300)
        assert armed is not None, "no series came"
        config = armed[0]
        client = CamClient(connection.get_socket_path())
        stacks = []
        while (handle := connection.get_next_stack(max_size=STACK)) is not None:
            columns, rows = handle.get_shape()  # as the detector says it
            frames = np.zeros((len(handle), rows, columns), np.dtype(handle.get_dtype_string()))
            client.decode_range_into_buffer(handle, frames, 0, len(handle))
            client.done(handle)
            stacks.append(frames)
            if sum(map(len, stacks)) == config.get_num_frames():
                break
        np.save(file, np.concatenate(stacks))
        print("saved", flush=True)
        client.close()
        connection.close()


def send(uri: str) -> None:
    simulator = DectrisSim.new_mocked(uri=uri, num_frames=64, dwelltime=1000, random_port=False)
    print("bound", flush=True)
    while sys.stdin.readline():
        simulator.send_headers()
        simulator.send_frames()
        simulator.send_footer()
        print("sent", flush=True)


if __name__ == "__main__":
    {"read": read, "send": send}[sys.argv[1]](*sys.argv[2:])
