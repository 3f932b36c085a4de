"""The stages of a whole sweep."""

from latentmix.experiment.diversity import COMPARE_PAIRS
from latentmix.experiment.stages import GENERATE, INVERT, MEASURE_IF_COMPLETE, MEASURE_REFERENCES
from latentmix.experiment.synthesis import SYNTHESIZE

SWEEP = (SYNTHESIZE, MEASURE_REFERENCES, INVERT, MEASURE_IF_COMPLETE, GENERATE, COMPARE_PAIRS)
