"""Reading environments, and the facts of AWS that they are checked against."""

import gzip
import json
import pickle
from pathlib import Path

import botocore
import moto
import pytest
from pydantic import ValidationError

import environments.model
from environments import aws
from environments.errors import ConfigError
from environments.files import FOLDER, load, names
from environments.model import Section

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_file_in_environments_loads_by_name_and_by_path(path: Path) -> None:
    assert load(path.stem) == load(path) == load(str(path))
    assert path.stem in names()


def test_local_needs_nothing_but_this_machine() -> None:
    local = load("local")
    assert not local.on_aws
    assert local.archive_uri == "var/archive"
    assert str(local.multicast.interface) == "127.0.0.1"
    assert [(name, f"{feed.group}:{feed.port}") for name, feed in local.channel(310).feeds.items()] == [
        ("incremental_a", "239.255.31.1:14310"),
        ("incremental_b", "239.255.31.2:15310"),
        ("snapshot", "239.255.31.3:16310"),
    ]


def test_prod_has_several_accounts_and_two_regions() -> None:
    prod = load("prod")
    assert len(set(prod.accounts.values())) == 5
    assert prod.tick_bucket() == "example-quant-ticks-prod-us-east-2"
    assert prod.tick_bucket("us-west-2") == "example-quant-ticks-prod-us-west-2"
    assert prod.archive_uri == "s3://example-quant-ticks-prod-us-east-2"
    assert prod.parameter("cluster/endpoint") == "/tickworks/prod/cluster/endpoint"


def test_an_environment_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load("local").name = "other"  # type: ignore[misc]  # what mypy refuses, the model refuses too


def test_an_environment_survives_pickling() -> None:
    prod = load("prod")
    assert pickle.loads(pickle.dumps(prod)) == prod


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"called prd, the known ones are: dev, local, prod; write prod\."):
        load("prd")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read: No such file"):
        load(tmp_path / "gone.toml")


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_text('name = "place"\nregion us-east-2\n')
    with pytest.raises(ConfigError, match=r"place\.toml is not TOML: .*line 2"):
        load(path)


def test_a_table_declared_twice_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_text("[archive]\n[archive]\n")
    with pytest.raises(ConfigError, match=r"place\.toml is not TOML: .*archive.*line 2"):
        load(path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_bytes(b'name = "\xff"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)


def test_an_empty_file_names_every_key_that_is_required(tmp_path: Path) -> None:
    path = tmp_path / "place.toml"
    path.write_text("")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert [sentence.split(" = ")[0] for sentence in caught.value.sentences] == [
        f"place.toml: {key}" for key in ("name", "purpose", "exchange", "contacts", "archive")
    ]


def test_a_channel_that_the_environment_lacks_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="prod has no channel 311; it has 310, 318"):
        load("prod").channel(311)


def test_a_subnet_that_the_environment_lacks_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="no subnet trading/x; it has transit/wan-a, transit/lan-a, trading"
    ):
        load("dev").subnet("trading/x")


def test_an_archive_in_a_folder_has_no_bucket() -> None:
    with pytest.raises(ConfigError, match=r"var/archive, not a bucket"):
        load("local").tick_bucket()


def test_a_value_of_several_lines_stays_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "local.toml"
    path.write_text((FOLDER / "local.toml").read_text().replace('"simulator"', '"a\\nb\\rc"'))
    with pytest.raises(ConfigError, match=r'exchange = "a\\nb\\rc": ') as caught:
        load(path)
    assert len(caught.value.sentences) == 1


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("one.\ntwo.")))
    assert error.sentences == ("one.", "two.")


def test_the_regions_are_those_that_the_aws_sdk_knows() -> None:
    partitions = json.loads((Path(botocore.__file__).parent / "data" / "partitions.json").read_text())
    (commercial,) = [facts for facts in partitions["partitions"] if facts["id"] == "aws"]
    assert set(commercial["regions"]) - {"aws-global"} == aws.REGIONS


@pytest.mark.parametrize(
    ("region", "prefix"),
    [("us-east-2", "use2"), ("ap-northeast-1", "apne1"), ("eu-central-1", "euc1"), ("af-south-1", "afs1")],
)
def test_zone_ids_begin_as_aws_writes_them(region: str, prefix: str) -> None:
    assert aws.zone_prefix(region) == prefix


def test_every_instance_type_of_the_ec2_api_is_nitro_or_xen_as_the_api_says() -> None:
    with gzip.open(Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz") as file:
        types = json.load(file)
    stated = {name: facts["Hypervisor"] for name, facts in types.items() if "Hypervisor" in facts}
    assert len(stated) > 500
    assert {
        name for name, hypervisor in stated.items() if aws.is_nitro(name) != (hypervisor == "nitro")
    } == set()


def test_the_page_names_every_section_and_key() -> None:
    text = PAGE.read_text()
    sections = [model for model in vars(environments.model).values() if _is_section(model)]
    assert len(sections) > 15
    keys = {key for section in sections for key in section.model_fields}
    assert {key for key in keys if f"`{key}`" not in text} == set()


def test_the_page_names_every_source_of_a_rule() -> None:
    text = PAGE.read_text()
    sources = [
        value
        for name, value in vars(aws).items()
        if isinstance(value, str) and name.isupper() and not name.startswith("_")
    ]
    assert len(sources) > 15
    assert [source for source in sources if source.partition(", https")[0] not in text] == []


def _is_section(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Section) and value is not Section
