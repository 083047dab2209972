"""A diagnosis in words: one sentence with the cause, the cure, and what is to be expected of it."""

from collections.abc import Mapping

from depth_distill.export.device.diagnosis import Diagnosis
from depth_distill.export.device.patterns import Patterns
from depth_distill.export.device.shares import PartName

PART_TITLES: Mapping[PartName, str] = {
    "systematic": "systematic",
    "clipping": "clipping",
    "spatial": "spatial",
    "per_image": "per image",
    "inside": "inside the network",
    "step": "step of the output",
    "random": "random rest",
}
PART_MEANINGS: Mapping[PartName, str] = {
    "systematic": "a curve from code to code explains it: fit-decoder undoes it",
    "clipping": "the device is at an end of what it returns at all",
    "spatial": "the same in every image, at the same pixels",
    "per_image": "a factor and an offset of each image",
    "inside": "a known change of layers within the network",
    "step": "rounding to the values that the output has",
    "random": "rounding within the network, and all that is not explained",
}


def verdict(found: Diagnosis) -> str:
    """What happened, what to do about it, and what that is expected to give, in one sentence."""
    before = found.fit.before
    if found.named is not None:
        tried = found.named
        cause = f"{tried.title} (fits to {found.fitted_mm:.1f} mm)"
        if tried.suspect.kind != "curve":
            return f"{cause}: {tried.suspect.cure}; that takes {before} to {found.cured}"
        return f"{cause}: {_of_table(found)}; {tried.suspect.cure}"
    finding, parts = found.finding, found.shares.parts
    if finding == "sound":
        return (
            f"nothing is wrong: the device is {before} from the float network, which is rounding (the step "
            f"of the output {_percent(parts['step'].share)} of the squared error, random {_percent(_rest(found))})"
        )
    return _UNNAMED[finding].format(
        before=before,
        table=_of_table(found),
        share=_percent(parts[_PART_OF[finding]].share),
        where=where(found.patterns),
    )


_UNNAMED: Mapping[str, str] = {
    "tiles": "the error has seams, {where}: the tool chain computes the image in tiles that overlap too little; look "
    "for its tiling, and give it a larger overlap or none ({before} from the float network)",
    "border": "the error lies at the border, {where}: the tool chain pads otherwise than the network; give it a "
    "network that pads with zeros ({before} from the float network)",
    "unknown_curve": "the device's codes are a curve of the float network's that is none of the known ones ({share} of "
    "the squared error): {table}",
    "clipping": "the device's output is clipped ({share} of the squared error, {before} from the float network): its "
    "output range is too small; calibrate it on more images, or fix it to 0 to 1 in the tool chain",
    "unknown_place": "the error is the same in every image at the same pixels ({share} of the squared error, {before} "
    "from the float network), and no known fault of place or padding explains it: see the map of the mean error",
    "per_image": "each image is off by a factor and an offset of its own ({share} of the squared error, {before} from "
    "the float network), and no known input explains it: compare the bytes that the device is fed with the network's "
    "input",
    "coarse": "no known fault: the device is {before} from the float network, and INT8 within the network rounds that "
    "coarsely ({share} of the squared error is random); depth-distill harden prepares the network for it",
}
_PART_OF: Mapping[str, PartName] = {
    "tiles": "spatial",
    "border": "spatial",
    "unknown_curve": "systematic",
    "clipping": "clipping",
    "unknown_place": "spatial",
    "per_image": "per_image",
    "coarse": "random",
}


def where(patterns: Patterns) -> str:
    """Where in the image the error is."""
    if patterns.in_tiles:
        return f"every {patterns.period} {patterns.axis}, {patterns.seam_ratio:.1f} times as steep as elsewhere"
    return (
        f"{patterns.bands_mm[0]:.1f} mm at the outermost pixels and {patterns.bands_mm[-1]:.1f} mm inside"
        f" ({100 * patterns.border_share:.0f} % of the squared error are the border's)"
    )


def _of_table(found: Diagnosis) -> str:
    before, after = found.fit.before, found.fit.after
    if found.fit.helps:
        return f"depth-distill fit-decoder takes {before} to {after} on images that its table was not fitted on"
    return f"no decode table helps ({before}, and {after} with one)"


def _rest(found: Diagnosis) -> float:
    parts = found.shares.parts
    return sum(part.share for name, part in parts.items() if name in ("random", "spatial", "per_image"))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
