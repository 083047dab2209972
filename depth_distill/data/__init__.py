"""Data sets of images with metric depth, and the loaders that batch them."""

from depth_distill.data.dataset import DepthDataset
from depth_distill.data.image_folder import ImageFolder
from depth_distill.data.kitti import KittiDepth
from depth_distill.data.ncdb import NcdbDepth
from depth_distill.data.nyuv2 import NyuV2Labeled
from depth_distill.data.rgbd_folder import RgbdFolder
from depth_distill.data.splits import DepthSplits
from depth_distill.data.streamed import StreamedDepth
from depth_distill.data.synthetic import SyntheticDepth
from depth_distill.data.transforms import RandomZoom
from depth_distill.data.tum import TumRgbd
from depth_distill.data.validation import report_table, validate_dataset

__all__ = [
    "DepthDataset",
    "DepthSplits",
    "ImageFolder",
    "KittiDepth",
    "NcdbDepth",
    "NyuV2Labeled",
    "RandomZoom",
    "RgbdFolder",
    "StreamedDepth",
    "SyntheticDepth",
    "TumRgbd",
    "report_table",
    "validate_dataset",
]
