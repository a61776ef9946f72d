"""The strategy: one DeepSpeed engine per trained network."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch import Tensor, nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from adastate.distributed import sample_groups, sharded_strategies
from adastate.distributed.deepspeed_config import Offload, merge_blocks, settings
from adastate.distributed.protocol import TrainedModule, TrainedNetwork, trained_module
from adastate.distributed.zero_shards import ZeroShards
from adastate.models import unread
from adastate.models.fsdp import refuse_compiled
from adastate.optim.muon import Muon


class _Precision(DeepSpeedPrecision):
    def convert_input(self, data: Any) -> Any:
        """Networks cast their inputs themselves; Lightning's cast of a batch would round latents, and rejects ours."""
        return data


class _Root(nn.Module):
    """The module that an engine wraps: the network is called directly, as often as a rollout needs it, and the engine's
    own forward, which prepares a backward pass, is that of the loss. DeepSpeed expects one forward per backward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, loss: Tensor) -> Tensor:
        return loss


class ZeroStrategy(DeepSpeedStrategy):
    """Trains each network of a module in its own DeepSpeed engine, with ZeRO and without changing its forward.

    Gradients are clipped per network by its own norm; a step that the module does not permit is skipped. Micro batches
    are counted by the module's `accumulate`: the engine reduces to its shards, and steps at the last one. Averages are
    kept on each rank's share of the float32 weights and gathered on request (EMA.whole).

    Args:
        stage: 1 shards the optimiser's state, 2 gradients too, 3 weights too. With 3 turn on activation checkpointing
            (`checkpointing: true` of the networks): otherwise the gathered weights of a layer stay until backward.
        shard_frozen: shard the frozen networks as well (stage 3 only); otherwise each rank holds them in full.
        offload_optimizer: where the optimiser's state and float32 weights are kept, and its step runs.
        offload_parameters: where the shards of the weights are kept (stage 3 only).
        nvme_path: folder for data offloaded to nvme.
        config: merged over the DeepSpeed config that these arguments make; see DeepSpeed's documentation.
        sequence_parallel: ranks that share a sample, see adastate.distributed.sequence_split; everything sharded is
            always sharded over all ranks.

    Raises:
        ValueError: for incompatible arguments.
        TypeError: for a module that does not name its networks.
    """

    strategy_name = "zero"
    brings_networks = True

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        shard_frozen: bool = False,
        offload_optimizer: Offload = "none",
        offload_parameters: Offload = "none",
        nvme_path: str | None = None,
        config: dict[str, Any] | None = None,
        sequence_parallel: int = 1,
    ) -> None:
        told = settings(stage, shard_frozen, offload_optimizer, offload_parameters, nvme_path, config or {})
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed detects its device when first imported
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise ModuleNotFoundError(
                "ZeroStrategy needs DeepSpeed: pip install -e '.[gpu]', or use conf/strategy/ddp.yaml or fsdp2.yaml"
            ) from error
        self.stage, self.shard_frozen = stage, shard_frozen
        self.offload_optimizer, self.offload_parameters = offload_optimizer, offload_parameters
        super().__init__(config=told)
        self.sequence_parallel = sequence_parallel
        self.engines: dict[str, Any] = {}
        self.held: dict[str, ZeroShards] = {}
        self._backwards: dict[str, int] = {}

    # ---- processes

    def setup_environment(self) -> None:
        self.precision_plugin = _Precision(cast(Any, self.precision_plugin.precision))
        DDPStrategy.setup_environment(self)  # DeepSpeedStrategy's refuses CPUs
        sample_groups.group_ranks(self)

    distributed_sampler_kwargs = property(sample_groups.distributed_sampler_kwargs)  # type: ignore[assignment]

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        if self.root_device.type == "cpu":
            import deepspeed

            # an operator for shared memory, which would take two minutes to compile; gloo does not need it
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._init_deepspeed_distributed()

    # ---- engines

    @property
    def networks(self) -> TrainedModule:
        return trained_module(self.lightning_module, "ZeroStrategy")

    def init_deepspeed(self) -> None:
        module, networks = cast(pl.LightningModule, self.lightning_module), self.networks
        precision = self.precision_plugin.precision
        if precision not in ("32-true", "bf16-mixed"):
            raise ValueError(
                f"precision {precision}: ZeroStrategy supports 32-true and bf16-mixed (bf16 with float32 masters)"
            )
        half = precision == "bf16-mixed"
        self._refuse_casts(networks, half)
        low = torch.bfloat16 if half else torch.float32
        for net in networks.frozen.values():
            unread.bring(net, "cpu" if self.shard_frozen else self.root_device, low)
            net.to(low)
        if module.trainer.training:  # engines need them in their compute dtype; averages read their share
            for network in networks.trained.values():
                unread.bring(network.net, "cpu" if self.stage == 3 else self.root_device, low)
        else:
            unread.bring_all(module, self.root_device)
        if self.shard_frozen:
            for name, net in networks.frozen.items():
                self.engines[name] = self._engine(net, {})
        if module.trainer.training:
            self._init_trained(module, networks, half)
        module.to(self.root_device)

    def _init_trained(self, module: pl.LightningModule, networks: TrainedModule, half: bool) -> None:
        optimizers, schedules = _init_optimizers_and_lr_schedulers(module)
        owners = {id(p): network for network in networks.trained.values() for p in network.net.parameters()}
        for name, p in module.named_parameters():
            if p.requires_grad and id(p) not in owners:
                raise ValueError(f"{name} is trainable but in none of the networks {list(networks.trained)}")
        wrapped = []
        extra: dict[str, Any] = {}
        if half:
            extra["bf16"] = {"enabled": True, "check_grad_overflow": True}
            extra["data_types"] = {"grad_accum_dtype": "fp32"}
        if any(isinstance(optimizer, Muon) for optimizer in optimizers):
            raise ValueError("ZeRO shards weights and Muon needs whole matrices: leave `muon_lr` null")
        for optimizer in optimizers:
            (name,) = {owners[id(p)].name for group in optimizer.param_groups for p in group["params"]}
            network = networks.trained[name]
            clip = {"gradient_clipping": float(network.gradient_clip_norm)}
            engine = self._engine(_Root(network.net), extra | clip, optimizer)
            self.engines[name], self._backwards[name] = engine, 0
            wrapped.append(engine.optimizer)
            where = torch.device("cpu") if self.offload_optimizer != "none" else self.root_device
            self.held[name] = ZeroShards(engine, network.average, where)
        self.optimizers, self.lr_scheduler_configs = wrapped, schedules

    def _engine(self, net: nn.Module, extra: dict[str, Any], optimizer: Any = None) -> Any:
        import deepspeed

        index = self.root_device.index
        config = merge_blocks(cast(dict[str, Any], self.config), extra)
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

    def _refuse_casts(self, networks: TrainedModule, half: bool) -> None:
        trained = {name: network.net for name, network in networks.trained.items()}
        for name, net in {**trained, **networks.frozen}.items():
            dtype = getattr(net, "compute_dtype", None)
            in_pieces = self.stage == 3 and (name in networks.trained or self.shard_frozen)
            if in_pieces:
                refuse_compiled(net, "ZeRO-3")
            if in_pieces and dtype not in (None, torch.bfloat16 if half else torch.float32):
                raise ValueError(
                    f"compute_dtype {dtype} of the {name} would cast weights that ZeRO-3 shards: set "
                    "precision.compute_dtype: null, and trainer.precision: bf16-mixed for bf16"
                )

    # ---- a step

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        # Recomputation that stops early would skip the hooks by which ZeRO-3 frees a layer.
        with set_checkpoint_early_stop(self.stage < 3):
            result = super().training_step(*args, **kwargs)
        if not cast(pl.LightningModule, self.lightning_module).automatic_optimization:
            for name, count in self._backwards.items():
                if count:  # the module abandoned an iteration between two backward passes
                    self._discard(name)
        return result

    def backward(
        self, closure_loss: Tensor, optimizer: Any, *args: Any, network: TrainedNetwork | None = None, **kwargs: Any
    ) -> Tensor:
        if network is None:  # automatic optimisation by Lightning
            (network,) = self.networks.trained.values()
        name = network.name
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

    # ---- operations on each network, see adastate.distributed.protocol.NetworkStrategy

    one_backward_per_batch = True
    averages_are_whole = False

    def clip_gradient(self, network: TrainedNetwork) -> Tensor:
        """Only the norm: an engine clips in its step."""
        return self.held[network.name].gradient_norm()

    def clipped_step(self, network: TrainedNetwork, optimizer: Any, permit: Callable[[Tensor], bool]) -> Tensor:
        name = network.name
        norm = self.held[name].gradient_norm()
        if not permit(norm):
            self._discard(name)
            return norm
        optimizer.step()
        if not self.engines[name].was_step_applied():
            raise RuntimeError(f"DeepSpeed skipped a step of the {name}, whose gradient norm is {float(norm)}")
        return norm

    def _discard(self, name: str) -> None:
        """Clears the gradients that an engine has accumulated, as it does itself after an overflow."""
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
        return self.held[name].gather(self.held[name].read())

    # ---- checkpoints, see adastate.distributed.sharded_strategies

    save_checkpoint = sharded_strategies.save_checkpoint
    load_checkpoint = sharded_strategies.load_checkpoint
    lightning_module_state_dict = sharded_strategies.lightning_module_state_dict
    load_model_state_dict = sharded_strategies.load_model_state_dict
    optimizer_state = sharded_strategies.optimizer_state
