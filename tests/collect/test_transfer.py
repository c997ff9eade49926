"""One fault at a time: what each does to a transfer, and that nothing false is taken for true."""

import stat
import zipfile
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest

from collect.catalogue import Catalogue
from collect.stub_server import KINDS, Faults, StubServer
from mammoflow import collect
from mammoflow.collect.http import Client, md5_of
from mammoflow.collect.model import PausedError, RefusedError, TransferError
from mammoflow.collect.pace import Pace, retrying
from mammoflow.collect.unzip import unpack
from mammoflow.errors import UserError

pytestmark = pytest.mark.usefixtures("quick")


def arrived_whole(catalogue: Catalogue, out: Path) -> None:
    """Every image of ``catalogue`` lies below ``out``, byte by byte, and nothing half lies beside them."""
    assert {md5_of(path) for path in out.rglob("*.dcm")} == catalogue.digests()
    assert sum(1 for _ in out.rglob("*.dcm")) == sum(len(one.files) for one in catalogue.series.values())
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("source", ["nbia", "idc"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_is_noticed_and_survived(kind: str, source: str, cmmd: Catalogue, out: Path) -> None:
    address = "getImage" if source == "nbia" else ".dcm"
    with StubServer([cmmd], Faults(script={address: [kind]}, retry_after="0")) as server:
        last = collect.collect("cmmd", out, server.settings(source))
        assert [one.fault for one in server.seen].count(kind) == 1
    assert last.status == "done", last.message
    arrived_whole(cmmd, out)
    assert "failure 1 of 6" in (out / "download_log.txt").read_text()


@pytest.mark.parametrize("source", ["nbia", "idc"])
def test_every_fault_of_a_listing_is_survived(source: str, cmmd: Catalogue, out: Path) -> None:
    """All kinds in a row, but for the one a listing cannot show: it has no digest."""
    kinds = [kind for kind in KINDS if kind != "wrong_md5"]
    addresses = ["getSeries"] if source == "nbia" else ["list-type", "idc_index"]
    with StubServer([cmmd], Faults(script={address: kinds.copy() for address in addresses}, retry_after="0")) as server:
        assert (
            collect.collect("cmmd", out, server.settings(source) | {"tries": 9, "jobs": 1, "backoff_s": 0.001}).status
            == "done"
        )
        assert len([one for one in server.seen if one.fault]) == len(kinds) * len(addresses)
    arrived_whole(cmmd, out)


def test_a_broken_s3_transfer_goes_on_inside_the_file(cmmd: Catalogue, out: Path) -> None:
    with StubServer([cmmd], Faults(script={".dcm": ["cut"]})) as server:
        assert collect.collect("cmmd", out, server.settings("idc") | {"jobs": 1}).status == "done"
        ranges = [one.headers["Range"] for one in server.seen if "Range" in one.headers]
        (cut,) = [one for one in server.seen if one.fault == "cut"]
    size = next(path for keys in [cmmd.objects(cut.path.split("/")[3] + "/")] for key, path in keys.items()
                if key in cut.path).stat().st_size  # fmt: skip
    assert ranges == [f"bytes={size // 2}-"]
    arrived_whole(cmmd, out)


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(tmp_path: Path, cmmd: Catalogue) -> None:
    one = next(iter(cmmd.series.values()))
    key, path = next(iter(cmmd.objects(one.uuid + "/").items()))
    part = tmp_path / "x.part"
    part.write_bytes(b"of an older version")
    with StubServer([cmmd]) as server:
        Client(Pace(0, Event()), 5).download(
            f"{server.url}/s3/idc-open-data/{key}", part, lambda _: None, size=path.stat().st_size, etag='"older"'
        )
    assert part.read_bytes() == path.read_bytes()


def test_listings_of_many_pages(tcga_brca: Catalogue, out: Path) -> None:
    with StubServer([tcga_brca], page_size=3) as server:
        assert collect.collect("tcga_brca", out, server.settings("idc")).status == "done"
        assert any("continuation-token" in one.query for one in server.seen)
    arrived_whole(tcga_brca, out)


def test_without_hashes_in_the_zip_the_hierarchy_is_asked(cmmd: Catalogue, out: Path) -> None:
    with StubServer([cmmd], Faults(script={"getImage": ["honest", "wrong_md5"]})) as server:
        server.hashes_in_zip = False
        # The first is refused for its parameter, whatever was planned for it.
        assert collect.collect("cmmd", out, server.settings("nbia") | {"jobs": 1}).status == "done"
        assert sum(one.path.endswith("getMD5Hierarchy") for one in server.seen) == len(cmmd.series) + 1
        assert sum("IncludeMD5" in one.query for one in server.seen) == 1
    arrived_whole(cmmd, out)
    assert "not the one of getMD5Hierarchy" in (out / "download_log.txt").read_text()


def test_the_old_service_is_spoken_to_in_its_words(cmmd: Catalogue, out: Path) -> None:
    with StubServer([cmmd]) as server:
        settings = server.settings("nbia")
        assert (
            collect.collect("cmmd", out, settings | {"base_url": settings["base_url"].replace("v4", "v1")}).status
            == "done"
        )
        assert any(one.path.endswith("getImageWithMD5Hash") for one in server.seen)
    arrived_whole(cmmd, out)


# --- politeness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["429", "503"])
def test_retry_after_is_obeyed_by_all_threads(status: str, cmmd: Catalogue, out: Path) -> None:
    with StubServer([cmmd], Faults(script={"getImage": [status]}, retry_after="1")) as server:
        assert collect.collect("cmmd", out, server.settings("nbia") | {"jobs": 1}).status == "done"
        (when,) = [one.time for one in server.seen if one.fault == status]
        after = [one.time - when for one in server.seen if one.time > when]
    assert min(after) >= 1.0


def test_requests_keep_their_distance_whatever_the_number_of_jobs(cmmd: Catalogue, out: Path) -> None:
    with StubServer([cmmd]) as server:
        assert collect.collect("cmmd", out, server.settings("nbia") | {"jobs": 4, "interval_s": 0.1}).status == "done"
        times = [one.time for one in server.seen]
    # The server's clock starts when a thread of its own gets to run: a little less than the interval may be left.
    assert times[-1] - times[0] >= 0.1 * (len(times) - 1) * 0.9
    assert min(later - earlier for earlier, later in pairwise(times)) > 0.02


def test_the_default_interval_is_a_second_for_services_that_all_share() -> None:
    from mammoflow.collect.sources import INTERVALS

    assert {name: INTERVALS[name] for name in ("nbia", "physionet", "kaggle")} == dict.fromkeys(
        ("nbia", "physionet", "kaggle"), 1.0
    )


def test_waits_double_with_jitter_up_to_a_limit() -> None:
    pace, waits = Pace(0, Event()), []
    pace.sleep = waits.append
    loop = retrying(pace, 8, 1.0, 20.0, lambda _: None)
    with pytest.raises(TransferError):
        loop(_fail)
    assert len(waits) == 7
    for wait, middle in zip(waits, [1, 2, 4, 8, 16, 20, 20], strict=True):
        assert 0.5 * middle <= wait <= 1.5 * middle
    assert len({round(wait, 6) for wait in waits}) == 7


def test_a_try_that_gained_something_does_not_count_against_a_series() -> None:
    pace, tries = Pace(0, Event()), []
    pace.sleep = lambda _: None

    def gain_five_times() -> None:
        tries.append(1)
        _fail()

    loop = retrying(pace, 3, 1.0, 1.0, lambda _: None, lambda: 10 * min(len(tries), 5))
    with pytest.raises(TransferError):
        loop(gain_five_times)
    assert len(tries) == 5 + 2  # the fifth gained; with it three failures in a row


def _fail() -> None:
    raise TransferError("again")


def test_a_server_that_sends_us_away_for_long_ends_the_attempt(cmmd: Catalogue, out: Path) -> None:
    with (
        StubServer([cmmd], Faults(script={"getSeries": ["503"]}, retry_after="7200")) as server,
        pytest.raises(UserError, match=r"come back in 2\.0 h"),
    ):
        collect.collect("cmmd", out, server.settings("nbia"))


# --- zips nobody should trust -----------------------------------------------------------------------------------------


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "bad",
    [
        entry("../evil.dcm"), entry("/etc/evil.dcm"), entry("a/../../evil.dcm"), entry("..\\evil.dcm"),
        entry("C:evil.dcm"), entry("link.dcm", stat.S_IFLNK | 0o777),
    ],
    ids=lambda info: info.filename,
)  # fmt: skip
def test_entries_outside_the_target_are_refused(bad: zipfile.ZipInfo, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("1-1.dcm", b"fine")
        archive.writestr(bad, b"evil")
    before = set(tmp_path.rglob("*"))
    with pytest.raises(RefusedError, match=r"points outside|is a link"):
        unpack(tmp_path / "x.zip", tmp_path / "target", 2, 100)
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/etc/evil.dcm").exists()


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1-1.dcm", bytes(64 << 20))
    with pytest.raises(RefusedError, match="1 images of 1000 bytes were due"):
        unpack(tmp_path / "x.zip", tmp_path / "target", 1, 1000)
    # The directory lies: it says 10 bytes.
    raw = bytearray((tmp_path / "x.zip").read_bytes())
    place = raw.rindex(b"PK\x01\x02")
    raw[place + 24 : place + 28] = (10).to_bytes(4, "little")
    (tmp_path / "liar.zip").write_bytes(raw)
    with pytest.raises((RefusedError, TransferError)):
        unpack(tmp_path / "liar.zip", tmp_path / "target", 1, 1000)
    assert sum(path.stat().st_size for path in (tmp_path / "target").rglob("*")) <= 18 << 20
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.dcm", b"x")
    with pytest.raises(RefusedError, match="20 files where 2 images"):
        unpack(tmp_path / "many.zip", tmp_path / "target", 2, 1000)


def test_a_refused_series_does_not_stop_the_others(cmmd: Catalogue, out: Path) -> None:
    uid = sorted(cmmd.series)[0]
    whole = cmmd.zip_of

    class Evil(Catalogue):
        def zip_of(self, asked: str, *args: object, **options: object) -> bytes:
            content = whole(asked, *args, **options)
            return content.replace(b"1-1.dcm", b"../1.dc") if asked == uid else content

    evil = Evil("cmmd", cmmd.root)
    with StubServer([evil]) as server:
        last = collect.collect("cmmd", out, server.settings("nbia"))
    assert (last.status, last.series_failed, last.series_done) == ("failed", 1, len(cmmd.series) - 1)
    assert uid in last.message
    assert "points outside" in last.message
    assert not (out / ".collect" / "parts" / "1.dc").exists()


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_a_pause_wakes_those_who_wait() -> None:
    stop = Event()
    pace = Pace(3600, stop)
    pace.wait()
    stop.set()
    with pytest.raises(PausedError):
        pace.wait()
