"""`lineage.json` of an exported model: the run and the step that its weights are of."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

import manta
from manta.config.errors import RunError
from manta.config.mistakes import in_a_line
from manta.storage.place import Place
from manta.storage.run_folder import LINEAGE
from manta.storage.seal import read_sealed, seal_text


class ModelOrigin(BaseModel):
    """Where the weights in a folder come from.

    Attributes:
        run: name of the run.
        folder: folder or URL of the run at the time of the export.
        step: step of the checkpoint that was exported.
        tokens: tokens that the run had consumed by then.
        corpus_fingerprint: fingerprint of the corpus that the run trained on.
        binding: digest of the run's config and corpus, by which the run is known again.
        merged: whether the run's adapter was merged into the weights.
        average: whether the weights are the average of those of the steps.
        manta_version: version of Manta that exported the model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1, 2] = 2
    run: str
    folder: str
    step: int
    tokens: int
    corpus_fingerprint: str
    binding: str
    merged: bool = False
    average: bool = False
    manta_version: str = manta.__version__

    def text(self) -> str:
        """The text of the file, with a seal."""
        return seal_text(self.model_dump_json())

    @classmethod
    def read(cls, folder: Place) -> ModelOrigin | None:
        """The origin of the model in a folder; None if there is none.

        Raises:
            RunError: if the file was changed, or is no such file.
        """
        path = folder / LINEAGE
        try:
            return cls.model_validate_json(read_sealed(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path}: can't be read: {in_a_line(error)}; restore it from a copy, or export "
                "the model again"
            ) from None
