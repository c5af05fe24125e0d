"""Shape and type checks of the package's annotations, on for every test."""

from jaxtyping import install_import_hook

install_import_hook("asyrp_lit", "beartype.beartype")
