"""Rows, outputs, artifacts: what they refuse and what they carry."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from tests.workloads.models.samples import ES, MODELS, ORIGIN, STEP, fit, market
from workloads.errors import WorkloadError
from workloads.models.alpha import FlowConfig, FlowRows, Labels, ScoreConfig, ScoreRows
from workloads.models.portfolio import PositionConfig
from workloads.models.protocol import (
    Alpha,
    EmptyWindowError,
    LookAheadError,
    ModelError,
    Place,
    Terms,
    Unit,
    config_hash,
    continues,
    part,
)
from workloads.models.risk import MidRows, RiskConfig
from workloads.models.transaction_cost import CostConfig, QuoteRows
from workloads.ticks.definitions import Definition

TS = np.arange(1, 4) * STEP
SEGMENT = np.zeros(3, np.int64)
ONES = np.ones(3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["score", "flow", "risk", "cost"])
def test_no_number_that_is_none_reaches_a_model(name, bad):
    rows = market(5)[name]
    for column, values in vars(rows).items():
        if values.dtype == np.float64:
            spoiled = values.copy()
            spoiled[3] = bad
            with pytest.raises(
                ModelError, match=f"{column} holds 1 values of 5 .* in row 3; leave such rows out"
            ):
                type(rows)(**{**vars(rows), column: spoiled})


def test_rows_are_of_one_instrument_in_order_of_time():
    with pytest.raises(ModelError, match="does not increase; give the rows of one instrument, sorted"):
        MidRows(TS[[0, 2, 2]], SEGMENT, ONES)


def test_columns_are_of_one_length():
    with pytest.raises(ValueError, match=r"MidRows.mid has shape \(2,\), ts \(3,\)"):
        MidRows(TS, SEGMENT, ONES[:2])


def test_rows_outside_any_segment_are_refused():
    with pytest.raises(ModelError, match="outside any segment"):
        FlowRows(TS, np.array([0, -1, 0]), ONES)


def test_a_locked_book_has_no_cost():
    with pytest.raises(
        ModelError, match=r"bid 5.0 is not below ask 5.0 at 500000000; leave rows with a crossed"
    ):
        QuoteRows(TS, SEGMENT, ONES * [4, 5, 4], ONES * 5, SEGMENT)


@pytest.mark.parametrize("scores", [(0.5, 0.6, 0.1), (-0.1, 0.6, 0.5), (0.2, 0.2, 0.2)])
def test_scores_that_are_no_probabilities_are_refused(scores):
    with pytest.raises(ModelError, match="are no probabilities"):
        ScoreRows(TS, *(value * ONES for value in scores))


def test_labels_of_two_horizons_are_refused():
    with pytest.raises(ModelError, match=r"labels look \[1, 2\] ns ahead; give labels of one horizon"):
        Labels(TS, TS + np.array([1, 2, 1]), SEGMENT)


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_window_is_told_apart_because_the_instrument_can_be_left_out(name):
    rows = market(40)
    with pytest.raises(EmptyWindowError, match="leave the instrument out"):
        fit(name, rows, int(rows[name].ts[0]) - 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_saw_nothing_says_so(name):
    rows = market(300)
    artifact = fit(name, rows, int(rows[name].ts[200]))
    with pytest.raises(ModelError, match="seen yet; give update"):
        MODELS[name].predict(MODELS[name].start(artifact), artifact)


@pytest.mark.parametrize("name", MODELS)
def test_an_artifact_says_where_it_is_from(name):
    rows = market(300)
    end = int(rows[name].ts[200])
    artifact = fit(name, rows, end)
    assert (artifact.data_commit, artifact.code) == (ORIGIN.data_commit, ORIGIN.code)
    assert artifact.train_start == rows[name].ts[0]
    assert artifact.train_start < artifact.train_end <= artifact.as_of <= end
    assert json.loads(artifact.to_json())["as_of"] == artifact.as_of


@pytest.mark.parametrize("name", MODELS)
def test_an_artifact_never_changes_and_every_change_has_another_id(name):
    rows = market(300)
    artifact = fit(name, rows, int(rows[name].ts[200]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        artifact.as_of = 0
    changed = {dataclasses.replace(artifact, **{f.name: "x"}).id for f in dataclasses.fields(artifact)}
    assert len(changed | {artifact.id}) == len(dataclasses.fields(artifact)) + 1


def test_configs_of_other_values_and_of_other_kinds_have_other_hashes():
    configs = [ScoreConfig(), ScoreConfig(5), RiskConfig(), RiskConfig(0.5), CostConfig()]
    assert len({config_hash(config) for config in configs}) == len(configs)
    assert config_hash(RiskConfig(), ES) != config_hash(RiskConfig(), Terms(0.25, 20))
    assert config_hash(RiskConfig(0.5)) == config_hash(RiskConfig(0.5))


def test_rows_continue_within_a_segment_a_step_later_only():
    #         first  next   gap    next   other segment, next
    ts = STEP * np.array([5, 6, 9, 10, 11, 12])
    rows = MidRows(ts, np.array([0, 0, 0, 0, 1, 1]), np.ones(6))
    assert continues(Place(4 * STEP, 0), rows, STEP).tolist() == [True, True, False, True, False, True]
    assert not continues(Place(4 * STEP), rows, STEP)[0]


def test_a_tick_of_es_is_worth_12_50():
    assert ES.tick_value == 12.5


def definition(**values):
    fields = dict.fromkeys(f.name for f in dataclasses.fields(Definition))
    return Definition(**{**fields, "symbol": "ESH4", **values})


def test_the_terms_of_a_definition_give_the_tick_value_that_the_venue_publishes():
    terms = Terms.of(definition(tick=250_000_000, multiplier=50_000_000_000, tick_value=12_500_000_000))
    assert terms == ES
    assert terms.tick_value * 1e9 == 12_500_000_000


@pytest.mark.parametrize("values", [{"tick": None, "multiplier": 1}, {"tick": 1, "multiplier": None}])
def test_without_tick_or_multiplier_there_is_no_money(values):
    with pytest.raises(ModelError, match=r"ESH4 has tick .* leave the instrument out"):
        Terms.of(definition(**values))


def test_an_output_that_is_valid_before_its_inputs_is_refused():
    with pytest.raises(LookAheadError, match="valid before its inputs were known"):
        Alpha(TS, TS - 1, STEP, Unit.TICKS, ONES)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Terms(0.0, 50),
        lambda: Terms(np.nan, 50),
        lambda: ScoreConfig(least_moves=0),
        lambda: FlowConfig(half_lives=()),
        lambda: FlowConfig(half_lives=(1, -1)),
        lambda: FlowConfig(ridge=-1),
        lambda: RiskConfig(decay=1),
        lambda: RiskConfig(decay=0),
        lambda: RiskConfig(horizon_ns=0),
        lambda: CostConfig(commission=-1),
        lambda: CostConfig(impact=np.inf),
        lambda: PositionConfig(exit_share=1.1),
        lambda: PositionConfig(max_trade=0),
        lambda: PositionConfig(risk_aversion=np.nan),
    ],
)
def test_a_knob_that_makes_no_sense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=r"(is|are) (a|empty)"):
        wrong()


@pytest.mark.parametrize("kind", [ModelError, EmptyWindowError, LookAheadError])
def test_errors_are_workload_errors_and_travel_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("what, where, what next")))
    assert isinstance(error, WorkloadError)
    assert str(error) == "what, where, what next"


def test_a_part_of_rows_is_rows_of_the_same_kind():
    rows = part(MidRows(TS, SEGMENT, ONES), TS > STEP)
    assert isinstance(rows, MidRows)
    assert rows.ts.tolist() == [2 * STEP, 3 * STEP]
