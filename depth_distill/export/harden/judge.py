"""Who has the last word: ONNX Runtime's quantizer on the files that are returned, or this package's simulation."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from torch import Tensor

from depth_distill.errors import ConfigError, first_line
from depth_distill.export.backends.runtime import OnnxFile
from depth_distill.export.backends.vendor_ptq import inexpressible, vendor_ptq
from depth_distill.export.harden.outcome import Verdict, sqnr_and_error
from depth_distill.export.harden.sources import Source
from depth_distill.quantization.analysis.deviation import Deviation, DeviationScorer
from depth_distill.quantization.preparation import Prepared, Preparer
from depth_distill.quantization.recipe import NAIVE, Recipe
from depth_distill.quantization.recipe_search import RecipeSearch, gains
from depth_distill.quantization.target.target import NpuTarget


class Judge:
    """Measures candidates by the files that are returned, where a tool chain can; otherwise by the simulation."""

    def __init__(
        self, source: Source, target: NpuTarget, folder: Path, batches: Sequence[Tensor], held_out: Sequence[Tensor]
    ) -> None:
        self.source, self.target, self.folder = source, target, folder
        self.batches = batches
        self.files: dict[Recipe, Path] = {NAIVE: folder / "untouched.onnx"}
        source.untouched(self.files[NAIVE])
        untouched = OnnxFile(self.files[NAIVE])
        self.scorer = DeviationScorer(held_out, untouched)
        self.winner = NAIVE

    def decide(self, search: RecipeSearch, preparer: Preparer, console: Console) -> Verdict:
        """The last word: the best candidate whose file is better than the untouched one."""
        reason = inexpressible(self.target)
        measured: Callable[[Recipe], Deviation] = self._by_vendor
        before: Deviation | None = None
        judge, notes = "ONNX Runtime's quantizer", []
        if reason is None:
            try:
                with console.status("ONNX Runtime quantizes the untouched file"):
                    before = self._by_vendor(NAIVE)
            except Exception as error:  # its quantizer raises whatever it meets; the simulation has judged already
                reason = f"it refuses the file ({first_line(error)})"
        if reason is not None:
            judge, before = "this package's simulation", search.before
            by_recipe = {each.recipe: each.deviation for each in search.trials if each.deviation is not None}
            measured = by_recipe.__getitem__
            notes.append(f"ONNX Runtime's quantizer cannot stand for {self.target.name}: {reason}")
        candidates = [each.recipe for each in search.trials if each.kept and each.recipe != NAIVE][::-1]
        for recipe in candidates:
            try:
                self._write(recipe, preparer(recipe))
            except ConfigError as error:
                notes.append(f"{recipe.title}: {first_line(error)}")
                continue
            try:
                with console.status(f"{judge} measures the hardened file"):
                    after = measured(recipe)
            except Exception as error:  # see above
                notes.append(f"{recipe.title}: {judge} refuses the hardened file ({first_line(error)})")
                continue
            if before is None or gains(after, before):
                self.winner = recipe
                change = self.scorer(OnnxFile(self.files[recipe]))
                return Verdict(judge, before, after, recipe, True, change, tuple(notes))
            notes.append(
                f"{recipe.title} gains in our simulation, but not by {judge}: {sqnr_and_error(before)[0]} untouched, "
                f"{sqnr_and_error(after)[0]} hardened"
            )
        if before is None:
            raise ConfigError(f"no candidate can be quantized for {self.target.name}: {search.trials[0].note}")
        return Verdict(judge, before, before, NAIVE, False, None, tuple(notes))

    def copy_winner(self, path: Path) -> None:
        """Put the winner's file where it belongs."""
        path.write_bytes(self.files[self.winner].read_bytes())

    def _write(self, recipe: Recipe, prepared: Prepared) -> None:
        self.files[recipe] = self.folder / f"hardened_{len(self.files)}.onnx"
        self.source.write(prepared.graph, self.files[recipe])

    def _by_vendor(self, recipe: Recipe) -> Deviation:
        quantized = vendor_ptq(self.files[recipe], self.batches, self.folder / "quantized.onnx", target=self.target)
        # As written in the file: fused into integers, uint8 times int8 saturates on CPUs without VNNI, as on no NPU.
        return self.scorer(OnnxFile(quantized, optimize=False))
