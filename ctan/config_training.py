"""What settings are made of, and those of networks and training; `ctan.config` has them with all others."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


NumProcesses = Literal["auto"] | Annotated[int, Field(ge=1)]


class NoOptions(Settings):
    """Settings of a plug that has none of its own."""


class NetworkConfig(Settings):
    """The parts all architectures share, and options of single ones, which these describe themselves."""

    spatial_dims: Literal[2, 3] = 3
    num_stages: int = Field(5, ge=1, le=7, description="encoder stages; every stage but the first halves the grid")
    base_width: int = Field(16, ge=1, description="channels of the first stage; doubles every stage")
    max_width: int = Field(192, ge=1, description="upper bound of the channels")
    norm: Literal["instance", "group", "batch"] = Field(
        "instance", description="affine normalisation; group (8 groups) is used wherever a task has an image-level head"
    )
    upsample: Literal["deconv", "nearest", "trilinear"] = Field("deconv", description="upsampling in the decoders")
    io_stride: Literal[1, 2] = Field(
        1, description="2: space-to-depth at the input and depth-to-space at dense heads (3D on a CPU)"
    )
    foreground_prior: float = Field(
        0.5, gt=0, lt=1, description="probability that contouring heads start from; small for small structures"
    )
    map_prior: float = Field(0.0, description="value that heads of maps start from; of a dose over the prescription")
    map_gain: float = Field(1.0, gt=0, description="factor of their first weights; small: they start from map_prior")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before image-level heads")
    patch_shape: tuple[int, ...] | None = Field(
        None,
        min_length=2,
        max_length=3,
        description="voxels per axis that the network sees at once, where the working grid does not fit: it learns "
        "from patches and predicts in overlapping windows; not for image-level tasks; null: the whole grid",
    )
    deep_supervision: int = Field(
        0, ge=0, description="coarser levels of the decoders that learn too, each with half the weight of the one above"
    )
    options: dict[str, dict[str, Any]] = Field(
        {}, description="architecture -> settings of its own, such as {ctan: {ctae: false}}"
    )


class TrainingConfig(Settings):
    """Optimisation. The schedule is fixed: the final EMA weights are what is evaluated."""

    epochs: int = Field(10, ge=1, description="passes over the training cases")
    batch_size: int = Field(1, ge=1, description="cases a step, of all processes together")
    learning_rate: float = Field(1e-3, gt=0, description="AdamW, after warm-up")
    min_learning_rate: float = Field(1e-6, ge=0, description="end of the cosine")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="share of the steps with rising learning rate")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW; none on norms and biases")
    gradient_clip: float = Field(1.0, gt=0, description="largest global gradient norm")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="upper bound of min(ema_decay, (1+n)/(10+n))")
    foreground_weight: float = Field(
        0.0,
        ge=0,
        description="weight of a further contouring loss that does not fade where a structure is small: cross-entropy "
        "over its n voxels and over the 4 n most wrongly contoured ones outside",
    )
    label_share: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {},
        description="task -> share of the training patients (or lesions) whose labels it learns from, such as "
        "{contouring: 0.1}; what it would learn from the others counts as unknown; to see what few labels are worth",
    )
    task_weighting: Literal[
        "equal", "dwa", "uncertainty", "upgrad", "pcgrad", "mgda", "cagrad", "imtl_g", "aligned_mtl"
    ] = Field(
        "equal", description="how task losses are summed; from upgrad on, task gradients in place of losses (torchjd)"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes in it (AVX512_BF16, AMX, CUDA), else fp32"
    )
    flip_probability: float = Field(
        0.5, ge=0, le=1, description="flips along each axis that the data set allows; paired structures are swapped"
    )
    rotate_probability: float = Field(
        0.0, ge=0, le=1, description="rotations, and changes of size, as far as the data set allows them"
    )
    foreground_patches: float = Field(
        0.33, ge=0, le=1, description="share of the patches with a voxel of a random structure in their middle"
    )
    colour_probability: float = Field(
        0.0, ge=0, le=1, description="other brightness, contrast and colour balance, where the data set allows it"
    )
    translate_voxels: int = Field(0, ge=0, description="largest shift per axis that keeps mask and structures inside")
    early_stopping_patience: int = Field(0, ge=0, description="epochs without a better tuning score; 0: off")
    tuning_every: int = Field(0, ge=0, description="score the tuning cases every N epochs; 0: not in training")
    gradient_cosine: bool = Field(
        False, description="log the cosine of the tasks' gradients on shared weights, at the first step of an epoch"
    )
    checkpoint_minutes: float = Field(
        1.5, ge=0, description="minutes between two checkpoints, which are written in the background"
    )
    num_workers: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        0,
        description="processes that load cases; 0: in the training process; auto: those of the cores that are left "
        "over beside a GPU, none on a CPU",
    )
    num_processes: NumProcesses = Field(
        "auto", description="processes that share each step's cases; auto: one for every visible GPU, one on a CPU"
    )
    num_nodes: int = Field(
        1, ge=1, description="machines of one training, started as a TrainJob by the step; 1: the step's own"
    )
    gpus_per_node: int = Field(1, ge=0, description="GPUs, and processes, on each of several machines; 0: the CPU")
    micro_batch: int = Field(
        0,
        ge=0,
        description="cases of its share that a process takes at a time, where memory is not enough for all; the "
        "gradients are those of the whole batch; 0: all, halved when memory runs out",
    )
    recompute_activations: bool = Field(
        False,
        description="gradient checkpointing: blocks are computed a second time on the way back in place of being kept; "
        "less memory, a third more work, the same weights",
    )
    compile: bool = Field(
        False,
        description="compute the network by torch.compile, which takes minutes before the first step; where the "
        "compiler fails it is computed without, and that is said",
    )
    cases_in_memory: float = Field(
        0.25,
        ge=0,
        le=1,
        description="largest share of the container's memory that cases may take so as to be read from the store once; "
        "more than that are read in every epoch",
    )
    max_restarts: int = Field(
        3, ge=0, description="crashes (a signal, memory) after which the step goes on from its checkpoint; 0: none"
    )
