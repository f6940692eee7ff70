"""The sections of a search file that are fixed models: `search`, `resources`, and a trial's `training`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from kd_tune.ranges import Model


class SamplerConfig(Model):
    """How trials are proposed.

    Attributes:
        name: `tpe` (Optuna's, over trials as they ended), `rung_tpe` (over the highest epoch that enough trials have
            reached), `random`, or `grid` (every cell once; choices and steps only).
        num_startup_trials: `tpe`: trials of an arm that must have ended before it stops drawing at random.
        num_results: `rung_tpe`: trials that must have reached an epoch before it is modelled.
        multivariate: both TPEs: whether parameters are drawn together, not one by one.
        constant_liar: both TPEs: whether they are told of running trials, as bad ones.
    """

    name: Literal["tpe", "rung_tpe", "random", "grid"] = "tpe"
    num_startup_trials: Annotated[int, Field(ge=1)] = 10
    num_results: Annotated[int, Field(ge=2)] = 10
    multivariate: bool = False
    constant_liar: bool = False


_RUNG_SETTINGS = ("grace_period", "reduction_factor", "never_pruned")
# The settings that each scheduler has a use for; others are refused, and not written out as defaults.
_SCHEDULER_SETTINGS: dict[str, tuple[str, ...]] = {
    "asha": _RUNG_SETTINGS,
    "ray_asha": _RUNG_SETTINGS,
    "median": ("grace_period", "never_pruned"),
    "none": (),
}


class SchedulerConfig(Model):
    """When trials are stopped.

    Attributes:
        name: `asha` (ours); `ray_asha` or `median`, Ray's own; or `none` to train every trial to the end.
        grace_period: the first epoch after which a trial can be stopped; the first rung.
        reduction_factor: a rung keeps the best 1 / reduction_factor.
        never_pruned: share of every arm's trials that are trained to the end whatever happens at the rungs, so that
            pruning can be judged by them.
    """

    name: Literal["asha", "ray_asha", "median", "none"] = "asha"
    grace_period: Annotated[int, Field(ge=1)] = 3
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    never_pruned: Annotated[float, Field(ge=0, le=1)] = 0.05

    @property
    def has_rungs(self) -> bool:
        """Whether trials are compared after a few epochs alone."""
        return "reduction_factor" in _SCHEDULER_SETTINGS[self.name]

    @model_validator(mode="after")
    def _settings_have_a_use(self) -> Self:
        useless = sorted(self.model_fields_set - {"name", *_SCHEDULER_SETTINGS[self.name]})
        if useless:
            raise ValueError(f"{self.name} has no use for {' and '.join(useless)}; leave out what it has no use for")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_the_useless(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in ("name", *_SCHEDULER_SETTINGS[self.name])}


class ArmConfig(Model):
    """One arm of a search: `distil` is the file's own objective, the others are controls without a teacher's help.

    Attributes:
        name: `distil`, `cross_entropy` or `label_smoothing`.
        num_trials: trials of this arm; the search's `num_trials` if left out.
    """

    name: Literal["distil", "cross_entropy", "label_smoothing"]
    num_trials: Annotated[int, Field(ge=1)] | None = None


class SearchConfig(Model):
    """The `search` section.

    Attributes:
        goal: `best`, the most accurate student; or `front`, the best student at every size.
        num_trials: trials of every arm.
        arms: names, or sections with a name and a number of trials.
        sampler: how trials are proposed.
        scheduler: when trials are stopped.
        seed: everything random in the search follows from it.
        points: draws to start from, by parameter name; what a point leaves out is drawn.
        max_failures: times that a launch starts a trial that broke again, from its last checkpoint; one whose node was
            lost always starts again.
    """

    goal: Literal["best", "front"] = "best"
    num_trials: Annotated[int, Field(ge=1)] = 32
    arms: Annotated[list[ArmConfig], Field(min_length=1)] = [ArmConfig(name="distil")]
    sampler: SamplerConfig = SamplerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    points: list[dict[str, Any]] = []
    max_failures: Annotated[int, Field(ge=0)] = 3

    @field_validator("arms", mode="before")
    @classmethod
    def _name_to_arm(cls, arms: Any) -> Any:
        if isinstance(arms, list):
            return [{"name": arm} if isinstance(arm, str) else arm for arm in arms]
        return arms

    @field_validator("arms", mode="after")
    @classmethod
    def _arms_differ(cls, arms: list[ArmConfig]) -> list[ArmConfig]:
        if len({arm.name for arm in arms}) < len(arms):
            raise ValueError("an arm is named twice")
        return arms

    def trials_by_arm(self) -> dict[str, int]:
        return {arm.name: arm.num_trials or self.num_trials for arm in self.arms}


class ResourcesConfig(Model):
    """What one trial gets.

    Attributes:
        cpus_per_trial: whole cores; also its number of threads.
        gpus_per_trial: a fraction of one GPU, or whole GPUs.
        stack: how many trials share what one would get, and are trained in one step where they can be; left out: as
            many as pay, where the search's students can be trained so.
        epoch_seconds: an epoch of a trial, or of a stack, that takes longer is taken to hang, and its process is ended.
    """

    cpus_per_trial: Annotated[int, Field(ge=1)] = 1
    gpus_per_trial: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    stack: Annotated[int, Field(ge=1)] | None = None
    epoch_seconds: Annotated[float, Field(gt=0, le=1e6)] = 3600.0

    @field_validator("gpus_per_trial")
    @classmethod
    def _fraction_or_whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("a share of a GPU is below 1; above it, whole GPUs only")
        return gpus


class TrainingConfig(Model):
    """The `training` section of a trial.

    Attributes:
        num_epochs: passes over the training images.
        batch_size: images a step; the last, smaller batch of an epoch is trained too.
        views: how many views of every image the student may see (`augment` lists them); 1 is the clean image.
        transform: what happens to images after their views were taken: `none`, `trivial_augment`, or the user's own
            `package.module:callable` of uint8 batches `[B, C, H, W]`.
        schedule: the learning rate over the whole training, as a factor.
        precision: what a GPU's matrix units compute in: `float32`; `tf32`, with 10 bits of the 23; or `bfloat16`, by
            autocast, with 7. A CPU, on which the others are no faster, stays with float32.
    """

    num_epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 128
    views: Annotated[int, Field(ge=1, le=162)] = 1
    transform: str = "none"
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
