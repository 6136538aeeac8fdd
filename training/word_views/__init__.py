"""Views that know words: pairs with one marked word each, and translations joined with their links."""

from training.word_views.corruption import NoMaskPiece
from training.word_views.linking import NothingLinked
from training.word_views.views import WordViews

__all__ = ["NoMaskPiece", "NothingLinked", "WordViews"]
