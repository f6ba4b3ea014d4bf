"""Learning from what people do with results: recorded interactions, and the weights of searches learned from them."""

from mediatheca.flows.learning.arms import Ledger
from mediatheca.flows.learning.config import LearningConfig, check_learning, learning_config
from mediatheca.flows.learning.interactions import InteractionSpec, Recorder
from mediatheca.flows.learning.neighbours import LearningNeighbours
from mediatheca.flows.learning.records import forget_retriever, forget_user, remove_interaction
from mediatheca.flows.learning.service import Asker, LearnedFusion, Sampled
from mediatheca.flows.learning.settings import FusionSettings, read_settings, write_settings

__all__ = [
    "Asker",
    "FusionSettings",
    "InteractionSpec",
    "LearnedFusion",
    "LearningConfig",
    "LearningNeighbours",
    "Ledger",
    "Recorder",
    "Sampled",
    "check_learning",
    "forget_retriever",
    "forget_user",
    "learning_config",
    "read_settings",
    "remove_interaction",
    "write_settings",
]
