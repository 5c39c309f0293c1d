"""Looking at derivatives and at what they pass through: sweeps of the step."""

from jaxdiff.diagnostics.step_sweep import StepCurve as StepCurve
from jaxdiff.diagnostics.step_sweep import StepSweep as StepSweep
from jaxdiff.diagnostics.step_sweep import step_sweep as step_sweep
