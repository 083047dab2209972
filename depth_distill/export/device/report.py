"""What a fit of a decode table found: JSON, the picture of the curve, and the decoders where it helps."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from depth_distill.atomic import write_json
from depth_distill.codecs import describe_codec
from depth_distill.codecs.table_fit import Deviations
from depth_distill.display.charts import code_curves
from depth_distill.display.pictures import save_figure
from depth_distill.errors import ConfigError
from depth_distill.export.device.decoder_fit import FitOptions, FittedDecoder
from depth_distill.export.interface.decoders import write_decoders

TABLE, FOUND, PICTURE = "decode_table.json", "fit.json", "fit.png"
_BINS = 64  # of the device's codes, in the picture


def require_own_folder(out: Path) -> None:
    """Refuse a folder with anything but an earlier fit: a bundle has decoders of its own.

    Raises:
        ConfigError: there are files, and no ``fit.json``.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / FOUND).is_file():
        raise ConfigError(f"--out {out} has files that are not of fit-decoder: give a folder of its own")


def write_fit(fitted: FittedDecoder, options: FitOptions, out: Path) -> list[Path]:
    """Write ``fit.json`` and ``fit.png``, and where the table helps also what decodes with it.

    These are ``decode_table.json``, ``decode.py`` and ``decode.h``. Where this table does not help, those of an earlier
    fit in the same folder are deleted.

    Args:
        fitted: the fit.
        options: what it was made of.
        out: folder; it is created if necessary.

    Returns:
        The files that were written.
    """
    out.mkdir(parents=True, exist_ok=True)
    fit = fitted.fit
    write_json(out / FOUND, {**as_json(fitted, options), "verdict": verdict(fitted)})
    save_figure(figure(fitted), out / PICTURE)
    files = [out / FOUND, out / PICTURE]
    if not fit.helps:
        for name in (TABLE, "decode.py", "decode.h"):
            (out / name).unlink(missing_ok=True)
        return files
    write_json(out / TABLE, {"codec": describe_codec(fit.codec), "fitted": as_json(fitted, options)})
    return [*files, out / TABLE, *write_decoders(fit.codec, fitted.layout, out)]


def as_json(fitted: FittedDecoder, options: FitOptions) -> dict[str, Any]:
    """The record of a fit."""
    return {
        "network": options.network.name,
        "fitted_to": fitted.reference,
        "outputs": list(fitted.layout.names),
        **fitted.fit.to_dict(),
    }


def verdict(fitted: FittedDecoder) -> str:
    """What the table does, in one sentence."""
    fit = fitted.fit
    if not fit.helps:
        return (
            f"the device is {_text(fit.before)} from {fitted.reference}, and no table lowers that on images that it "
            f"was not fitted on (with one: {_text(fit.after)}): nothing is written for the host"
        )
    return f"deviation on images that the table was not fitted on: {_text(fit.before)} -> {_text(fit.after)}"


def figure(fitted: FittedDecoder) -> Figure:
    """For each code what the device says, and what the float network says there: median, middle 80 %, and the table."""
    codes = fitted.fit.codec
    curves = []
    for k, table in enumerate(codes.tables):
        device, expected = (each[:, k][fitted.valid[:, 0]] for each in (fitted.device, fitted.expected))
        if fitted.near_is_one:  # a codec's 0 is near
            expected = 1 - expected
        centres, spread = _spread(device, expected)
        curves.append((codes.inner.code_names[k], centres, spread, np.array(table)))
    return code_curves(curves, verdict(fitted))


def _spread(
    device: NDArray[np.float32], expected: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of bins of the device's codes that have pixels, and the 10th, 50th and 90th percentile in each."""
    bins = np.clip((device * _BINS).astype(int), 0, _BINS - 1)
    order = np.argsort(bins, kind="stable")
    ends = np.cumsum(np.bincount(bins, minlength=_BINS))
    groups = np.split(expected[order], ends[:-1])
    kept = [place for place, each in enumerate(groups) if each.size]
    percentiles = [np.percentile(groups[place], (10, 50, 90)) for place in kept]
    return (np.array(kept) + 0.5) / _BINS, np.array(percentiles).T


def _text(deviation: Deviations) -> str:
    return f"{deviation.mean_mm:.1f} mm ({100 * deviation.relative:.2f} %)"
