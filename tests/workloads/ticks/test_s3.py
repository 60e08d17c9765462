"""The archive in a bucket, through a real HTTP server on this machine."""

import base64
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from workloads.ticks.archive import Archive, ArchiveError, MissingDataError, Partition, open_archive
from workloads.ticks.schema import TABLES
from workloads.ticks.stores import S3Store

MONDAY = Partition("XCME", date(2026, 1, 5), 310)


def gaps(*seqs: int) -> pa.Table:
    """One row of `gaps` for each number."""
    rows = [{"venue": "XCME", "channel": 310, "epoch": 1, "first_seq": s, "last_seq": s} for s in seqs]
    return pa.Table.from_pylist(rows, schema=TABLES["gaps"].arrow)


def seen(archive: Archive, **kwargs) -> list[int]:
    return archive.read("gaps", **kwargs)["first_seq"].to_pylist()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def uri(endpoint: str, monkeypatch, request) -> str:
    """A bucket of its own for each test, under a prefix."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"ticks-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/firm/ticks"


def test_an_archive_in_a_bucket_behaves_like_one_in_a_folder(uri: str):
    archive = open_archive(uri)
    with pytest.raises(MissingDataError, match="there is nothing yet"):
        archive.read("gaps")
    archive.commit("gaps", MONDAY, {"a": gaps(1, 2)}, source={"kind": "live"})
    before = archive.data_commit()
    archive.commit("gaps", MONDAY, {"a": gaps(1, 2), "b": gaps(3)})
    archive.replace("gaps", MONDAY, {"ab": gaps(1, 2, 4)}, ["a", "b"])

    reader = open_archive(uri)
    assert reader.tables() == ["gaps"]
    assert reader.partitions("gaps") == [MONDAY]
    assert seen(reader) == [1, 2, 4]
    assert seen(reader, at=before) == [1, 2]
    assert pa.Table.from_batches(reader.batches("gaps")).equals(reader.read("gaps"))
    assert reader.paths("gaps") == [f"{uri}/gaps/{MONDAY.path}/ab.parquet"]
    assert reader.verify() == []


def test_every_object_is_stored_with_its_sha256(uri: str):
    archive = open_archive(uri)
    entry = archive.commit("gaps", MONDAY, {"a": gaps(1)}).added[0]
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    head = boto3.client("s3").head_object(Bucket=bucket, Key=f"{prefix}/{entry.key}", ChecksumMode="ENABLED")
    assert base64.b64decode(head["ChecksumSHA256"]).hex() == entry.sha256


class RacedStore(S3Store):
    """Lets another writer in just before this one creates its first log entry."""

    rival: Archive | None = None

    def create(self, key: str, staged: Path, sha256: str) -> bool:
        if "_commits" in key and (rival := self.rival):
            self.rival = None
            rival.commit("gaps", MONDAY, {"b": gaps(2), "both": gaps(3)})
        return super().create(key, staged, sha256)


def test_two_writers_who_want_one_entry_both_get_their_rows_in_once(uri: str):
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    store = RacedStore(bucket, prefix)
    store.rival = open_archive(uri)
    commit = Archive(store).commit("gaps", MONDAY, {"a": gaps(1), "both": gaps(3)})
    assert (commit.n, [file.stem for file in commit.added]) == (2, ["a"])
    assert seen(open_archive(uri)) == [2, 3, 1]
    assert open_archive(uri).verify() == []


def test_a_conflict_answer_is_tried_again(uri: str, monkeypatch):
    """S3 answers 409 while another conditional write of the key is in flight; moto never does."""
    from botocore.exceptions import ClientError

    monkeypatch.setattr("time.sleep", lambda _: None)
    store = S3Store(*uri.removeprefix("s3://").split("/", 1))
    put, answers = store._client().put_object, [409, 409]

    def conflicting(**kwargs):
        if answers:
            answers.pop()
            raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")
        return put(**kwargs)

    monkeypatch.setattr(store._client(), "put_object", conflicting)
    Archive(store).commit("gaps", MONDAY, {"a": gaps(1)})
    assert seen(open_archive(uri)) == [1]


def test_an_upload_that_was_never_answered_counts_once(uri: str, monkeypatch):
    """The entry arrived, its answer did not: the client's own retry then meets 412."""
    store = S3Store(*uri.removeprefix("s3://").split("/", 1))
    create = store.create
    monkeypatch.setattr(store, "create", lambda *args: create(*args) and "_commits" not in args[0])
    assert Archive(store).commit("gaps", MONDAY, {"a": gaps(1)}).n == 1
    assert seen(open_archive(uri)) == [1]


def test_a_file_left_by_a_crash_is_adopted_or_left_alone(uri: str):
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    archive = open_archive(uri)
    archive.commit("gaps", MONDAY, {"a": gaps(1)})
    entry = archive.log("gaps", MONDAY)[0].added[0]
    client, folder = boto3.client("s3"), f"{prefix}/gaps/{MONDAY.path}"
    client.copy_object(
        Bucket=bucket, Key=f"{folder}/same.parquet", CopySource=f"{bucket}/{prefix}/{entry.key}"
    )
    client.put_object(Bucket=bucket, Key=f"{folder}/other.parquet", Body=b"half a file")
    same, other = archive.commit("gaps", MONDAY, {"same": gaps(1), "other": gaps(5)}).added
    assert same.key.endswith("/same.parquet")
    assert other.key.endswith(f"/other-{other.sha256[:16]}.parquet")
    assert seen(archive) == [1, 1, 5]


def test_a_replica_in_a_bucket_waits_for_its_files(uri: str):
    home = open_archive(uri)
    home.commit("gaps", MONDAY, {"a": gaps(1)})
    home.commit("gaps", MONDAY, {"b": gaps(2)})
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    boto3.client("s3").delete_object(Bucket=bucket, Key=f"{prefix}/gaps/{MONDAY.path}/b.parquet")
    assert seen(open_archive(uri, complete_only=True)) == [1]


def test_a_missing_bucket_is_one_sentence(uri: str):
    archive = open_archive("s3://no-such-bucket-of-ours/ticks")
    with pytest.raises(ArchiveError, match=r"NoSuchBucket .*; create the bucket 'no-such-bucket-of-ours'"):
        archive.commit("gaps", MONDAY, {"a": gaps(1)})
    with pytest.raises(ArchiveError, match="NoSuchBucket"):
        archive.tables()


def test_a_server_that_does_not_answer_is_one_sentence(uri: str, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(ArchiveError, match=r"Could not connect .*; check AWS_ENDPOINT_URL"):
        open_archive(uri).tables()


def test_missing_credentials_are_one_sentence(uri: str, monkeypatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ArchiveError, match="Unable to locate credentials; check AWS_ENDPOINT_URL"):
        open_archive(uri).tables()


def test_a_refused_role_is_told_what_it_needs(uri: str):
    bucket = uri.removeprefix("s3://").partition("/")[0]
    deny = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject",'
        f'"Resource":"arn:aws:s3:::{bucket}/*"}}]}}'
    )
    boto3.client("s3").put_bucket_policy(Bucket=bucket, Policy=deny)
    archive = open_archive(uri)
    with pytest.raises(ArchiveError, match=r"give this role s3:ListBucket, s3:GetObject and s3:PutObject"):
        archive.commit("gaps", MONDAY, {"a": gaps(1)})
    assert archive.tables() == []


def test_a_uri_without_a_bucket_is_refused():
    with pytest.raises(ArchiveError, match="names no bucket"):
        open_archive("s3:///ticks")
