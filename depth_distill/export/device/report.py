"""What a fit of a decode table found: JSON, the picture of the curve, and the decoders where it helps."""

from pathlib import Path
from typing import Any

from depth_distill.atomic import write_json
from depth_distill.codecs import describe_codec
from depth_distill.display.pictures import save_figure
from depth_distill.export.compare.fitted_table import FittedDecoder, figure, verdict
from depth_distill.export.device.decoder_fit import FitOptions
from depth_distill.export.interface.decoders import write_decoders

OF_METRES = (
    "The table was fitted on metres. It takes the outputs from which the device's side decodes them, in place of that "
    "decoding, not the metres themselves."
)
"""What the decoders of a fit on metres are for."""
TABLE, FOUND, PICTURE = "decode_table.json", "fit.json", "fit.png"


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
    note = OF_METRES if options.reading.unit == "metres" else ""
    return [*files, out / TABLE, *write_decoders(fit.codec, fitted.layout, out, fitted.integers, note=note)]


def as_json(fitted: FittedDecoder, options: FitOptions) -> dict[str, Any]:
    """The record of a fit."""
    return {
        "network": options.network.name,
        "fitted_to": fitted.reference,
        "outputs": list(fitted.layout.names),
        **fitted.fit.to_dict(),
    }
