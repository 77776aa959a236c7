"""de-twin as a microscope to be driven: its DE-Server and its DE-TEM-Channel on free ports; truth on demand.

It prints a line of JSON when it is ready, writes the truth of the scan that is set to the file that a line of its input names,
and ends with its input.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from de_twin import DigitalTwin
from de_twin.faces.deapi_server import TwinDeapiServer
from de_twin.faces.temchannel_soap import TemChannelServer
from de_twin.state import TemStem

SPECIMEN, CAMERA = "Dense Au on holey C", "Celeritas"
CONVERGENCE, MAGNIFICATION, CAMERA_LENGTH = 20.0, 8_000_000, 10.0  # mrad, 1, cm


def main() -> None:
    twin = DigitalTwin(SPECIMEN, camera=CAMERA, corrector="probe")
    column = twin.column
    column.set_tem_stem(TemStem.STEM)
    column.set_convergence_mrad(CONVERGENCE)
    column.set("Magnification", MAGNIFICATION)
    column.set("CameraLength", CAMERA_LENGTH)
    soap = TemChannelServer(column, host="127.0.0.1", port=0).start()
    server = TwinDeapiServer(twin, port=0, pace=False).start()
    print(json.dumps({"soap": soap.url, "port": server.port}), flush=True)
    for line in sys.stdin:
        request = server.fake.request()
        truth = twin.ground_truth_ptychography(request)
        cube = twin.datacube(request)
        kept = {
            key: np.asarray(value)
            for key, value in truth.items()
            if isinstance(value, int | float | np.ndarray | tuple)
        }
        np.savez(line.strip(), patterns=np.asarray(cube, np.float32), **kept)
        print(json.dumps({"dwell": request.scan.dwell_s, "C1_nm": float(truth["C1_nm"])}), flush=True)
    server.stop()
    soap.stop()


if __name__ == "__main__":
    main()
