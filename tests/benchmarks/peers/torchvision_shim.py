"""Import before anything that imports torchvision beside a CPU-only torch.

The torchvision wheel is built against CUDA torch: its compiled operators do not load, and its import dies registering a
fake of `nms`. The peers use its pure-Python Gaussian blur only, so the missing operators are declared here.
"""

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
