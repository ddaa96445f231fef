"""ctan: Cross-Task Attention Networks for medical imaging, from raw files to a promoted model."""

__version__ = "0.1.0"
