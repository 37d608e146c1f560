"""Small optimized programs, written by hand in the form that the TPU compiler prints, whose times can be worked out on paper."""

MATRIX = "bf16[1024,2048]{1,0:T(8,128)(2,1)}"
WEIGHT = "bf16[2048,512]{1,0:T(8,128)(2,1)}"
PRODUCT = "bf16[1024,512]{1,0:T(8,128)(2,1)}"
WIDE = "f32[8192,1024]{1,0:T(8,128)}"
GATHERED = "bf16[4096,4096]{1,0:T(8,128)(2,1)}"
SHARD = "bf16[1024,4096]{1,0:T(8,128)(2,1)}"

PRODUCT_FLOPS = 2 * 1024 * 2048 * 512
WIDE_BYTES = 8192 * 1024 * 4
GATHERED_BYTES = 4096 * 4096 * 2


def config(cycles: int, model: str = "CLASSIC") -> str:
    """The part of the backend's configuration that says what the compiler thinks of an operation."""
    return f'backend_config={{"window_config":{{"estimated_cycles":"{cycles}","cost_model_type":"COST_MODEL_TYPE_{model}"}}}}'


FUSED = f"""
%fused_product (p.0: bf16[1024,2048], p.1: bf16[2048,512]) -> bf16[1024,512] {{
  %p.0 = {MATRIX} parameter(0)
  %p.1 = {WEIGHT} parameter(1)
  ROOT %convolution.1 = {PRODUCT} convolution(%p.0, %p.1), dim_labels=bf_io->bf
}}

%fused_wide (p.2: f32[8192,1024]) -> f32[8192,1024] {{
  %p.2 = {WIDE} parameter(0)
  ROOT %exp.1 = {WIDE} exponential(%p.2)
}}
"""


def product(name: str, cycles: int, metadata: str = "") -> str:
    return f"  %{name} = {PRODUCT} fusion(%x, %w), kind=kOutput, calls=%fused_product{metadata}, {config(cycles)}"


STACK = f"""HloModule jit_stack, is_scheduled=true
{FUSED}
ENTRY %main (x: bf16[1024,2048], w: bf16[2048,512], y: f32[8192,1024]) -> f32[8192,1024] {{
  %x = {MATRIX} parameter(0), metadata={{op_name="x
}}}}
"}}
  %w = {WEIGHT} parameter(1)
  %y = {WIDE} parameter(2)
{product("product.1", 1_500_000)}
{product("product.2", 750_000)}
  ROOT %wide = {WIDE} fusion(%y), kind=kLoop, calls=%fused_wide, {config(999_999_999, "INVALID")}
}}
"""
"""On v5e (1.5 GHz): products of 1 ms and 0.5 ms, and 2 × 32 MiB through memory. The metadata hold a line that is almost an end."""


def _loop(name: str, bound: int, stride: int, body: str) -> str:
    carried = f"(s32[]{{:T(128)}}, {MATRIX}, {WEIGHT})"
    types = "(s32[], bf16[1024,2048], bf16[2048,512])"
    return f"""
%{name}_condition (c: {types}) -> pred[] {{
  %c = {carried} parameter(0)
  %bound.{name} = s32[]{{:T(128)}} constant({bound})
  %counter.{name} = s32[]{{:T(128)}} get-tuple-element(%c), index=0
  ROOT %less.{name} = pred[]{{:T(512)}} compare(%counter.{name}, %bound.{name}), direction=LT
}}

%{name}_body (b: {types}) -> {types} {{
  %b = {carried} parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%b), index=0
  %x = {MATRIX} get-tuple-element(%b), index=1
  %w = {WEIGHT} get-tuple-element(%b), index=2
{body}
  %stride = s32[]{{:T(128)}} constant({stride})
  %i.copy = s32[]{{:T(128)}} copy(%i), {config(1, "INVALID")}
  %next = s32[]{{:T(128)}} add(%i.copy, %stride), {config(0, "INVALID")}
  ROOT %out = {carried} tuple(%next, %x, %w)
}}
"""


def nested(outer: int, inner: int, stride: int) -> str:
    """`outer` times: a product of 30 000 cycles, and `inner` counted by `stride` times a product of 15 000 cycles."""
    carried = f"(s32[]{{:T(128)}}, {MATRIX}, {WEIGHT})"
    within = f"""  %zero.1 = s32[]{{:T(128)}} constant(0)
  %carried.1 = {carried} tuple(%zero.1, %x, %w)
  %inner = {carried} while(%carried.1), condition=%inner_condition, body=%inner_body
{product("product.outer", 30_000)}"""
    return f"""HloModule jit_nested, is_scheduled=true
{FUSED}{_loop("inner", inner, stride, product("product.inner", 15_000))}{_loop("outer", outer, 1, within)}
ENTRY %main (x: bf16[1024,2048], w: bf16[2048,512]) -> (s32[], bf16[1024,2048], bf16[2048,512]) {{
  %x = {MATRIX} parameter(0)
  %w = {WEIGHT} parameter(1)
  %zero = s32[]{{:T(128)}} constant(0)
  %carried = {carried} tuple(%zero, %x, %w)
  ROOT %outer = {carried} while(%carried), condition=%outer_condition, body=%outer_body
}}
"""


GROUPS = {
    "axes of a mesh": "mesh['a'=4,'b'=1] {'a'}",
    "listed": "{{0,1,2,3}}",
    "counted off": "[1,4]<=[4]",
    "all": "{}",
}


def gather(middle: str, groups: str = GROUPS["listed"]) -> str:
    """An all-gather of 32 MiB over 4 chips: "alone", or with a product of 300 000 cycles "between" its start and its end (as a pair
    of instructions) or "carried" by it (as fusions)."""
    attributes = f"channel_id=7, replica_groups={groups}, dimensions={{0}}, use_global_device_ids=true"
    head = f"""HloModule jit_gather, is_scheduled=true
{FUSED}
%fused_start (s.0: bf16[1024,4096]) -> (bf16[1024,4096], bf16[4096,4096]) {{
  %s.0 = {SHARD} parameter(0)
  %gather.1 = {GATHERED} all-gather(%s.0), {attributes}
  ROOT %start = ({SHARD}, {GATHERED}) custom-call(%s.0, %gather.1), custom_call_target="AsyncCollectiveStart"
}}

%fused_done (d.0: bf16[1024,4096], d.1: bf16[4096,4096]) -> bf16[4096,4096] {{
  %d.0 = {SHARD} parameter(0)
  %d.1 = {GATHERED} parameter(1)
  %gather.2 = {GATHERED} all-gather(%d.0), {attributes}
  ROOT %done = {GATHERED} custom-call(%d.0, %d.1, %gather.2), custom_call_target="AsyncCollectiveDone"
}}

ENTRY %main (x: bf16[1024,2048], w: bf16[2048,512], s: bf16[1024,4096]) -> bf16[4096,4096] {{
  %x = {MATRIX} parameter(0)
  %w = {WEIGHT} parameter(1)
  %s = {SHARD} parameter(2)
"""
    bodies = {
        "alone": f"""{product("product", 300_000)}
  ROOT %gather = {GATHERED} all-gather(%s), {attributes}""",
        "between": f"""  %gather-start = ({SHARD}, {GATHERED}) all-gather-start(%s), {attributes}
{product("product", 300_000)}
  ROOT %gather-done = {GATHERED} all-gather-done(%gather-start)""",
        "carried": f"""  %started = ({SHARD}, {GATHERED}) fusion(%s), kind=kCustom, calls=%fused_start
  %mine = {SHARD} get-tuple-element(%started), index=0
  %whole = {GATHERED} get-tuple-element(%started), index=1
{product("product", 300_000)}
  ROOT %ended = {GATHERED} fusion(%mine, %whole), kind=kCustom, calls=%fused_done""",
    }
    return f"{head}{bodies[middle]}\n}}\n"
