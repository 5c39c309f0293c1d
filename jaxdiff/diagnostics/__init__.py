"""Looking at derivatives and at what they pass through: sweeps of the step, and the flow of a gradient through a network."""

from jaxdiff.diagnostics.flow_report import Flow as Flow
from jaxdiff.diagnostics.flow_report import GradientFlow as GradientFlow
from jaxdiff.diagnostics.flow_report import LayerFlow as LayerFlow
from jaxdiff.diagnostics.gradient_flow import gradient_flow as gradient_flow
from jaxdiff.diagnostics.gradient_flow import mlp_gradient_flow as mlp_gradient_flow
from jaxdiff.diagnostics.step_sweep import StepCurve as StepCurve
from jaxdiff.diagnostics.step_sweep import StepSweep as StepSweep
from jaxdiff.diagnostics.step_sweep import step_sweep as step_sweep
