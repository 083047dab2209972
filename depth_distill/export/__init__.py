"""From a network to files that tool chains read. Only this package imports ONNX.

The package can be called: ``depth_distill.export(checkpoint, out)`` is
:func:`~depth_distill.export.bundle.pipeline.export`. A function of that name beside the package would be hidden by it
as soon as anything below the package is imported.
"""

import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from depth_distill.export.bundle.pipeline import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
