"""The embedding functions as pixeltable wants them: in a module that it can import again."""

import PIL.Image
import pixeltable as pxt  # type: ignore[import-not-found]

from _embeddings import hash_text, project_picture


@pxt.udf
def embed_picture(picture: PIL.Image.Image) -> pxt.Array[(384,), pxt.Float]:
    return project_picture(picture)


@pxt.udf
def embed_text(text: str) -> pxt.Array[(384,), pxt.Float]:
    return hash_text(text)
