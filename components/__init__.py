"""One folder a pipeline step: typed inputs and outputs, a body of one import and one call into `ctan.steps`."""

from ctan import __version__

# A tag, not a digest: the name under which a machine builds or loads the image. Submitting rewrites it.
IMAGE = f"ctan:{__version__}"
