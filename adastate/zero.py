"""DeepSpeed ZeRO for several networks in one run: one engine for each that trains, the frozen ones beside them.

Written against DeepSpeed 0.19.8 and Lightning 2.6. This is the only file that knows DeepSpeed; a config names the
strategy by its class path (conf/zero/).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from adastate.ema import EMA

Offload = Literal["none", "cpu", "nvme"]
TAG = "state"
"""Name of the one folder that DeepSpeed wants below each engine's own."""

REST = "rest.pt"
"""What is no engine's in a checkpoint: counters, loops, callbacks, schedules."""


class Networks(Protocol):
    """A module that this strategy can train, such as adastate.distill.Distill."""

    clipped_step: Callable[[nn.Module, Any, float, Callable[[Tensor], bool]], Tensor]
    learning: str
    clip: float

    @property
    def trained(self) -> dict[str, nn.Module]: ...

    @property
    def frozen(self) -> dict[str, nn.Module]: ...

    @property
    def averages(self) -> dict[str, EMA]: ...

    @property
    def accumulate(self) -> int: ...


class _Precision(DeepSpeedPrecision):
    def convert_input(self, data: Any) -> Any:
        """Networks cast what they are given; Lightning's cast of a batch would round latents, and refuses ours."""
        return data


class _Root(nn.Module):
    """What an engine wraps: the network is called directly, as often as a rollout needs it, and the engine's own
    forward, which opens a backward pass, is that of the loss. DeepSpeed expects one forward a backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, loss: Tensor) -> Tensor:
        return loss


@dataclass(frozen=True)
class _Piece:
    """Elements `start` to `start + count` of a flattened parameter."""

    name: str
    param: nn.Parameter
    start: int
    count: int


class ZeroShares:
    """This rank's share of an engine's float32 weights, see adastate.ema.Shares.

    Args:
        engine: of the network.
        device: where averages of the share are kept: the processor if the optimiser is offloaded to it.
    """

    def __init__(self, engine: Any, device: torch.device) -> None:
        self.device = device
        self.shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in engine.module.net.named_parameters()}
        self._pieces = [_piece(n, p) for n, p in engine.module.net.named_parameters()]
        self.pieces = [piece for piece in self._pieces if piece.count]

    def cut(self, net: nn.Module) -> list[Tensor]:
        whole = dict(net.named_parameters())
        return [
            whole[p.name].detach().flatten()[p.start : p.start + p.count].to(self.device, torch.float32, copy=True)
            for p in self.pieces
        ]

    def read(self) -> list[Tensor]:
        return [_master(p.param)[: p.count].to(self.device) for p in self.pieces]

    def gradient_norm(self) -> Tensor:
        """Of the whole reduced gradient, before it is clipped; on every rank."""
        device = self._pieces[0].param.device
        parts = [_gradient(p).float().norm().to(device) for p in self.pieces]
        squared = torch.stack(parts).square().sum() if parts else torch.zeros((), device=device)
        torch.distributed.all_reduce(squared)
        return squared.sqrt()

    def gather(self, shares: list[Tensor]) -> dict[str, Tensor]:
        mine = {p.name: (p, share) for p, share in zip(self.pieces, shares, strict=True)}
        found = {}
        for every in self._pieces:
            shape = self.shapes[every.name]
            full = torch.zeros(shape, device=every.param.device)
            if every.name in mine:
                piece, share = mine[every.name]
                full.view(-1)[piece.start : piece.start + piece.count] = share.to(full.device)
            torch.distributed.all_reduce(full)  # every element is one rank's, so the sum is exact
            found[every.name] = full
        return found


class ZeroStrategy(DeepSpeedStrategy):
    """Trains the networks of a module in one DeepSpeed engine each, with ZeRO and without changing their forward.

    Gradients are clipped for each network by its own norm; a step that the module does not permit is not taken.
    Micro batches are counted by the module's `accumulate`: the engine reduces to its shards and steps at the last.
    Averages are kept on each rank's share of the float32 weights and gathered on request (EMA.whole).

    Args:
        stage: 1 shards the optimiser's state, 2 gradients too, 3 weights too. With 3 turn on activation checkpointing
            (`checkpointing: true` of the networks): the gathered weights of a layer otherwise stay until backward.
        shard_frozen: shard the frozen networks as well (stage 3 only); without, each rank has them whole.
        offload_optimizer: where the optimiser's state and float32 weights lie, and its step runs.
        offload_parameters: where the shards of the weights lie (stage 3 only).
        nvme_path: folder for what is offloaded to nvme.
        config: merged over the DeepSpeed config that these make; see DeepSpeed's documentation.

    Raises:
        ValueError: for what does not go together.
        TypeError: for a module that does not name its networks.
    """

    strategy_name = "zero"

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        shard_frozen: bool = False,
        offload_optimizer: Offload = "none",
        offload_parameters: Offload = "none",
        nvme_path: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        if stage not in (1, 2, 3):
            raise ValueError(f"stage {stage}: ZeRO has 1, 2 and 3")
        if stage != 3 and (shard_frozen or offload_parameters != "none"):
            raise ValueError(f"shard_frozen and offload_parameters need stage 3, not {stage}")
        if stage != 3 and offload_optimizer == "nvme":
            raise ValueError(f"offload_optimizer: nvme needs stage 3, not {stage}")
        if "nvme" in (offload_optimizer, offload_parameters) and nvme_path is None:
            raise ValueError("offload to nvme needs nvme_path, a folder on that disk")
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks for its device when first imported
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise ModuleNotFoundError(
                "ZeroStrategy needs DeepSpeed: pip install 'adastate[gpu]', or take conf/zero/ddp.yaml or fsdp2.yaml"
            ) from error
        self.stage, self.shard_frozen = stage, shard_frozen
        self.offload_optimizer, self.offload_parameters = offload_optimizer, offload_parameters
        zero: dict[str, Any] = {
            "stage": stage,
            "contiguous_gradients": True,
            "overlap_comm": torch.cuda.is_available() and offload_optimizer == "none",
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
        }
        for key, device in (("offload_optimizer", offload_optimizer), ("offload_param", offload_parameters)):
            if device != "none":
                pinned = torch.cuda.is_available()
                zero[key] = {"device": device, "pin_memory": pinned} | ({"nvme_path": nvme_path} if nvme_path else {})
        merged = _merge(
            {
                "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own throughput log only
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": 2**31,
                "zero_optimization": zero,
            },
            config or {},
        )
        super().__init__(config=merged)
        self.engines: dict[str, Any] = {}
        self.shares: dict[str, ZeroShares] = {}
        self._backwards: dict[str, int] = {}

    # ---- processes

    def setup_environment(self) -> None:
        self.precision_plugin = _Precision(cast(Any, self.precision_plugin.precision))
        DDPStrategy.setup_environment(self)  # DeepSpeedStrategy's refuses processors

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        if self.root_device.type == "cpu":
            import deepspeed

            # an operator for shared memory, which would be compiled for two minutes; gloo does without
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._init_deepspeed_distributed()

    # ---- engines

    @property
    def networks(self) -> Networks:
        module = self.lightning_module
        missing = [n for n in ("trained", "frozen", "averages", "accumulate") if not hasattr(type(module), n)]
        if missing:
            raise TypeError(
                f"ZeroStrategy cannot train {type(module).__name__}, which has no {', '.join(missing)} as Distill has; "
                "use conf/zero/ddp.yaml or fsdp2.yaml"
            )
        return cast(Networks, module)

    def init_deepspeed(self) -> None:
        module, networks = cast(pl.LightningModule, self.lightning_module), self.networks
        precision = self.precision_plugin.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise ValueError(
                f"precision {precision}: ZeroStrategy knows 32-true and bf16-mixed (bf16 with float32 masters)"
            )
        half = precision == "bf16-mixed"
        self._refuse_casts(networks, half)
        for net in networks.frozen.values():
            net.to(torch.bfloat16 if half else torch.float32)
        if self.shard_frozen:
            for name, net in networks.frozen.items():
                self.engines[name] = self._engine(net, {})
        if module.trainer.training:
            self._init_trained(module, networks, half)
        module.to(self.root_device)

    def _init_trained(self, module: pl.LightningModule, networks: Networks, half: bool) -> None:
        optimizers, schedules = _init_optimizers_and_lr_schedulers(module)
        owners = {id(p): name for name, net in networks.trained.items() for p in net.parameters()}
        for name, p in module.named_parameters():
            if p.requires_grad and id(p) not in owners:
                raise ValueError(f"{name} learns but is in none of the networks {list(networks.trained)}")
        wrapped = []
        extra: dict[str, Any] = {"gradient_clipping": float(networks.clip)}
        if half:
            extra["bf16"] = {"enabled": True, "check_grad_overflow": True}
            extra["data_types"] = {"grad_accum_dtype": "fp32"}
        for optimizer in optimizers:
            (name,) = {owners[id(p)] for group in optimizer.param_groups for p in group["params"]}
            engine = self._engine(_Root(networks.trained[name]), extra, optimizer)
            self.engines[name], self._backwards[name] = engine, 0
            wrapped.append(engine.optimizer)
            self.shares[name] = ZeroShares(
                engine, torch.device("cpu") if self.offload_optimizer != "none" else self.root_device
            )
        self.optimizers, self.lr_scheduler_configs = wrapped, schedules
        for name, average in networks.averages.items():
            average.shard(self.shares[name])
        networks.clipped_step = self._clipped_step

    def _engine(self, net: nn.Module, extra: dict[str, Any], optimizer: Any = None) -> Any:
        import deepspeed

        index = self.root_device.index
        config = _merge(cast(dict[str, Any], self.config), extra)
        if optimizer is None:
            config["zero_optimization"].pop("offload_optimizer", None)
        engine, *_ = deepspeed.initialize(
            args=argparse.Namespace(**({} if index is None else {"device_rank": index})),
            config=config,
            model=net,
            model_parameters=[p for p in net.parameters() if p.requires_grad],
            optimizer=optimizer,
            dist_init_required=False,
        )
        return engine

    def _refuse_casts(self, networks: Networks, half: bool) -> None:
        for name, net in {**networks.trained, **networks.frozen}.items():
            dtype = getattr(net, "compute_dtype", None)
            in_pieces = self.stage == 3 and (name in networks.trained or self.shard_frozen)
            if in_pieces and dtype not in (None, torch.bfloat16 if half else torch.float32):
                raise ValueError(
                    f"compute_dtype {dtype} of the {name} would cast weights that ZeRO-3 keeps in pieces: set "
                    "flow.compute_dtype: null, and trainer.precision: bf16-mixed for bf16"
                )

    # ---- a step

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # Recomputation that stops early would skip the hooks by which ZeRO-3 lets go of a layer.
        with set_checkpoint_early_stop(self.stage < 3):
            result = super().training_step(*args, **kwargs)
        for name, count in self._backwards.items():
            if count:  # the module gave an iteration up between two backward passes
                self._discard(name)
        return result

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        name = self.networks.learning
        engine = self.engines[name]
        self._backwards[name] += 1
        engine.set_gradient_accumulation_boundary(self._backwards[name] >= self.networks.accumulate)
        engine.backward(engine(closure_loss))
        return closure_loss

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        result = closure()
        self.precision_plugin._after_closure(cast(pl.LightningModule, self.lightning_module), optimizer)
        (name,) = (n for n, e in self.engines.items() if e.optimizer is optimizer)
        if self._backwards[name] != self.networks.accumulate:
            raise RuntimeError(
                f"the {name} steps after {self._backwards[name]} backward passes of {self.networks.accumulate}"
            )
        self._backwards[name] = 0
        self.engines[name].step()
        return result

    def _clipped_step(self, net: nn.Module, optimizer: Any, clip: float, permit: Callable[[Tensor], bool]) -> Tensor:
        """adastate.optim.clipped_step for an engine, which clips by itself."""
        (name,) = (n for n, e in self.engines.items() if getattr(e.module, "net", None) is net)
        norm = self.shares[name].gradient_norm()
        if not permit(norm):
            self._discard(name)
            return norm
        optimizer.step()
        if not self.engines[name].was_step_applied():
            raise RuntimeError(f"DeepSpeed left out a step of the {name}, whose gradient norm is {float(norm)}")
        return norm

    def _discard(self, name: str) -> None:
        """Forgets the gradients that an engine has accumulated, as it does itself after an overflow."""
        self._backwards[name] = 0
        zero = self.engines[name].optimizer
        zero.zero_grad()
        for clear in ("_release_preflattened_grad_buffers", "reset_cpu_buffers"):
            getattr(zero, clear, lambda: None)()
        for kept in ("averaged_gradients", "all_grad_tensors"):
            found = getattr(zero, kept, {})
            found.update(dict.fromkeys(found))
        if self.stage < 3 and hasattr(zero, "micro_step_id"):
            zero.micro_step_id = -1

    def teardown(self) -> None:
        self.optimizers = []
        for engine in self.engines.values():
            engine.destroy()
        super().teardown()

    # ---- weights

    def whole_weights(self, name: str) -> dict[str, Tensor]:
        """Float32 weights of a trained network by name, on every rank; all ranks must call it."""
        return self.shares[name].gather(self.shares[name].read())

    # ---- checkpoints

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Writes a folder, all ranks together: `<name>/` of each engine, `averages/`, and `rest.pt`.

        It is written in place: who wants it whole or absent hands in a scratch path and renames it afterwards.
        """
        folder = Path(self.broadcast(os.fspath(filepath)))
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.networks.trained:
            self.engines[name].save_checkpoint(str(folder / name), tag=TAG)
        (folder / "averages").mkdir(exist_ok=True)
        for name, average in self.networks.averages.items():
            source = self.shares[name]
            pieces = [(p.name, p.start, t.cpu()) for p, t in zip(source.pieces, average.shares, strict=True)]
            torch.save({"shapes": source.shapes, "pieces": pieces}, _average_file(folder, name, self.global_rank))
        if self.is_global_zero:
            kept = {k: v for k, v in checkpoint.items() if k != "optimizer_states"}
            torch.save({**kept, "zero": {"stage": self.stage, "world": self.world_size}}, folder / REST)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads what save_checkpoint wrote, whatever stage and number of processes it was.

        The same stage on as many processes loads DeepSpeed's own files, each rank its own, and goes on bit by bit.
        DeepSpeed refuses any other (ZeRO 1 to 3 alike), so there all weights and moments are put together and cut
        anew, which takes two float32 copies of the network in each rank's memory and is exact as well. A run that was
        offloaded to nvme resumes only as it was.

        Raises:
            FileNotFoundError: where there is no such checkpoint.
            ValueError: for another stage or world with the optimiser on nvme.
        """
        folder = Path(checkpoint_path)
        if not (folder / REST).is_file():
            raise FileNotFoundError(f"no ZeRO checkpoint at {folder}: there is no {REST} in it")
        rest: dict[str, Any] = torch.load(folder / REST, map_location="cpu", weights_only=False)
        had, have = rest.pop("zero"), {"stage": self.stage, "world": self.world_size}
        if had != have and self.offload_optimizer == "nvme":
            raise ValueError(
                f"{folder} was written by ZeRO-{had['stage']} on {had['world']} processes, this is "
                f"ZeRO-{self.stage} on {self.world_size} with its optimiser on nvme: resume as it was"
            )
        for name in self.networks.trained:
            if had == have:
                self.engines[name].load_checkpoint(str(folder / name), tag=TAG, load_lr_scheduler_states=False)
            else:
                _recut(folder / name, self.engines[name], self.shares[name])
        for name, average in self.networks.averages.items():
            _read_average(folder, name, self.shares[name], average)
        return rest

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Buffers and counters; weights are in the engines' folders, and frozen ones in the files they came from."""
        module = cast(pl.LightningModule, self.lightning_module)
        weights = {name for name, _ in module.named_parameters()}
        return {k: v for k, v in module.state_dict().items() if k not in weights}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        module = cast(pl.LightningModule, self.lightning_module)
        weights = {name for name, _ in module.named_parameters()}
        module.load_state_dict({k: v for k, v in checkpoint["state_dict"].items() if k not in weights}, strict=False)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return {}


def consolidate(folder: str | Path) -> dict[str, dict[str, Tensor]]:
    """Whole float32 weights of a checkpoint of ZeroStrategy, by network and parameter, on one process.

    Returns:
        `student`, `critic` and `student_average` of Distill: state dicts of DiT, on the processor.

    Raises:
        FileNotFoundError: where there is no such checkpoint.
    """
    folder = Path(folder)
    if not (folder / REST).is_file():
        raise FileNotFoundError(f"no ZeRO checkpoint at {folder}: there is no {REST} in it")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    found = {engine.name: _whole(engine) for engine in sorted(p.parent for p in folder.glob(f"*/{TAG}"))}
    for name in sorted({p.stem.rpartition("-")[0] for p in (folder / "averages").glob("*.pt")}):
        average: dict[str, Tensor] = {}
        for part in _average_parts(folder, name):
            for key, shape in part["shapes"].items():
                average.setdefault(key, torch.zeros(shape))
            for key, start, piece in part["pieces"]:
                average[key].view(-1)[start : start + piece.numel()] = piece
        found[f"{name}_average"] = average
    return found


def _piece(name: str, param: Any) -> _Piece:
    """This rank's piece of a parameter, as DeepSpeed cuts it: an even part of each one in stage 3, and in stages 1 and
    2 what falls into the rank's part of all of them laid end to end."""
    if hasattr(param, "ds_id"):
        even = param.partition_numel()
        start = even * torch.distributed.get_rank()
        return _Piece(name, param, start, max(0, min(even, param.ds_numel - start)))
    mapping = param._hp_mapping
    if mapping is None:
        return _Piece(name, param, 0, 0)
    return _Piece(name, param, mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel)


def _master(param: Any) -> Tensor:
    """The float32 weights of this rank's piece, in stage 3 with the padding of the last one."""
    if hasattr(param, "ds_id"):
        from deepspeed.utils import safe_get_local_fp32_param

        return cast(Tensor, safe_get_local_fp32_param(param)).detach()
    return cast(Tensor, param._hp_mapping.get_hp_fragment()).detach()


def _gradient(piece: _Piece) -> Tensor:
    """The reduced gradient of a piece, between the last backward and the step."""
    param: Any = piece.param
    if hasattr(param, "ds_id"):
        from deepspeed.utils import safe_get_local_grad

        return cast(Tensor, safe_get_local_grad(param)).flatten()[: piece.count]
    found = cast(Tensor, param._hp_mapping.get_lp_grad_fragment(param._index_in_param_group)).flatten()
    # bf16 in stage 1 accumulates whole gradients
    return found if found.numel() == piece.count else found[piece.start : piece.start + piece.count]


def _flat(engine: Any, param: Any) -> tuple[Tensor, int]:
    """The flat float32 tensor that the optimiser steps, and where in it this rank's piece of `param` begins."""
    if hasattr(param, "ds_id"):
        zero = engine.optimizer
        group, at, _ = zero.grad_position[zero.get_param_id(param)]
        return zero.fp32_partitioned_groups_flat[group], at
    (flat,) = engine.basic_optimizer.param_groups[0]["params"]
    return flat, param._hp_mapping.hp_fragment_address.start


def _whole(engine: Path, moment: str = "") -> dict[str, Tensor]:
    """Whole float32 weights of an engine's folder, or one of its optimiser's moments ("exp_avg") in their place."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with tempfile.TemporaryDirectory() as scratch:
        if moment:
            (Path(scratch) / TAG).mkdir()
            for file in (engine / TAG).glob("*_states.pt"):
                target = Path(scratch) / TAG / file.name
                if file.name.endswith("optim_states.pt"):
                    held, optimizer, flats = _optimizer_file(file)
                    kept = optimizer["state"]
                    held["optimizer_state_dict"][flats] = [kept[i][moment] for i in range(len(kept))]
                    torch.save(held, target)
                else:
                    target.symlink_to(file.resolve())
        weights = get_fp32_state_dict_from_zero_checkpoint(scratch if moment else str(engine), tag=TAG)
    return {k.removeprefix("net."): v for k, v in weights.items()}


def _optimizer_file(file: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(what a rank saved of its optimiser, torch's part of that, the key of the flat weights), of any stage."""
    held = torch.load(file, map_location="cpu", weights_only=False, mmap=True)
    inner = held["optimizer_state_dict"]
    if "fp32_flat_groups" in inner:
        return held, inner["optimizer_state_dict"], "fp32_flat_groups"
    return held, inner["base_optimizer_state"], "single_partition_of_fp32_groups"


def _recut(folder: Path, engine: Any, shares: ZeroShares) -> None:
    """Loads into `engine` what another number of ranks or another stage saved; all ranks together."""
    import deepspeed

    _, saved, _ = _optimizer_file(sorted((folder / TAG).glob("*optim_states.pt"))[0])
    optimizer, first = engine.basic_optimizer, saved["state"][0]
    moments = [k for k, v in first.items() if torch.is_tensor(v) and v.dim()]
    weights = _whole(folder)
    for name, param in engine.module.net.named_parameters():
        with deepspeed.zero.GatheredParameters([param], modifier_rank=0, enabled=hasattr(param, "ds_id")):
            param.data.copy_(weights[name])
    for moment in ("", *moments):
        source = _whole(folder, moment) if moment else weights
        for piece in shares.pieces:
            flat, at = _flat(engine, piece.param)
            if moment and moment not in optimizer.state[flat]:
                optimizer.state[flat][moment] = torch.zeros_like(flat)
            target = optimizer.state[flat][moment] if moment else flat.data
            mine = source[piece.name].reshape(-1)[piece.start : piece.start + piece.count]
            target[at : at + piece.count].copy_(mine)
    for piece in shares.pieces:
        flat, _ = _flat(engine, piece.param)
        optimizer.state[flat].update({k: v.clone() for k, v in first.items() if torch.is_tensor(v) and not v.dim()})
    for group, other in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({k: v for k, v in other.items() if k != "params"})


def _average_file(folder: Path, name: str, rank: int) -> Path:
    return folder / "averages" / f"{name}-{rank:05}.pt"


def _average_parts(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    for file in sorted((folder / "averages").glob(f"{name}-*.pt")):
        yield torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _read_average(folder: Path, name: str, source: ZeroShares, average: EMA) -> None:
    """Whatever number of ranks wrote it: pieces know their places."""
    mine = {p.name: (p.start, p.count, share) for p, share in zip(source.pieces, average.shares, strict=True)}
    for part in _average_parts(folder, name):
        for key, at, piece in part["pieces"]:
            start, count, share = mine.get(key, (0, 0, piece))
            first, last = max(start, at), min(start + count, at + piece.numel())
            if first < last:
                share[first - start : last - start].copy_(piece[first - at : last - at])


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`, block by block; neither is changed."""
    merged = {k: _merge(v, {}) if isinstance(v, dict) else v for k, v in below.items()}
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
