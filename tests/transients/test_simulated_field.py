"""From the simulated camera's raw counts to the transient: masters, calibration and search, with cosmic rays and hot pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from nightbell.calibration.batch import calibrate
from nightbell.simulator.optics import Glimpse, Seen, Source, celestial_matrix, expose
from nightbell.simulator.references import render_references
from nightbell.simulator.settings import GalaxySettings, SimulatorSettings
from nightbell.transients.hosts import separation_arcsec
from nightbell.transients.search import find_with_references, read_frame

HOST = GalaxySettings(name="NGC4993", ra_deg=197.44875, dec_deg=-23.38389, mag=12.2, half_light_radius_arcsec=16.0, axis_ratio=0.85)
NEW = (197.45, -23.3811)
SETTINGS = SimulatorSettings(seed=20270412, galaxies=(HOST,))


class Telescope:
    """Writes what the simulated camera sees, with the cards that calibration and the search read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n = 0
        folder.mkdir()

    def take(self, kind: str, band: str | None = None, pointing: tuple[float, float, float] | None = None, **seen) -> Path:
        self.n += 1
        camera = SETTINGS.camera
        glimpses = (Glimpse(*pointing),) * 3 if pointing else ()
        pixels = expose(Seen(counter=self.n, band=band or "r", glimpses=glimpses, galaxies=(HOST,), **seen), camera, SETTINGS.seed)
        header = fits.Header()
        if pointing:
            # The header believes the target to be in the middle; the mount is off by an arc minute.
            wcs = WCS(naxis=2)
            wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [HOST.ra_deg, HOST.dec_deg], [256.5, 256.5]
            wcs.wcs.cd = celestial_matrix(3.0, camera.scale_arcsec_per_px)
            header = wcs.to_header()
        header["IMAGETYP"], header["INSTRUME"], header["CAMERAID"] = kind, "Simulated", "main"
        header["FRAMEID"] = f"{self.n:016d}"
        header["EXPTIME"], header["EGAIN"], header["RDNOISE"], header["CCD-TEMP"] = seen["exposure_s"], camera.gain_e_per_adu, 6.0, -10.0
        header["SATURATE"], header["NIGHT"], header["DATE-OBS"] = 60000.0, "2027-04-12", f"2027-04-13T02:{self.n:02d}:00"
        if band:
            header["FILTER"] = band
        if pointing:
            header["OBJECT"], header["OBJID"], header["TARGRA"], header["TARGDEC"] = "NGC4993", "ngc4993", HOST.ra_deg, HOST.dec_deg
        path = self.folder / f"{kind.lower()}{self.n:02d}.fits"
        fits.PrimaryHDU(pixels, header).writeto(path)
        return path

    def night(self, mag: float | None, seeing_arcsec: float = 2.4) -> list[Path]:
        for _ in range(5):
            self.take("BIAS", exposure_s=0.0)
        for _ in range(3):
            self.take("DARK", exposure_s=60.0)
        for _ in range(3):
            self.take("FLAT", "r", exposure_s=4.0, lamp_e_per_px=30000.0)
        sources = (Source(*NEW, mag),) if mag is not None else ()
        lights = []
        for i, (ra, dec) in enumerate(((60, -50), (65, -45), (55, -52))):
            turn = 180.0 if i == 2 else 0.0
            at = (HOST.ra_deg + ra / 3600 / np.cos(np.deg2rad(HOST.dec_deg)), HOST.dec_deg + dec / 3600, 3.0 + turn)
            sky = {"sky_e_per_px": 60 * 4.0, "seeing_arcsec": seeing_arcsec, "sources": sources}
            lights.append(self.take("LIGHT", "r", at, exposure_s=60.0, **sky))
        return lights


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    render_references(SETTINGS, folder, [("NGC4993", HOST.ra_deg, HOST.dec_deg)], galaxies=(HOST,), filters=("r",))
    return folder


@pytest.mark.parametrize(("mag", "seeing_arcsec"), [(17.5, 2.4), (18.0, 3.2)])
def test_the_injected_transient_is_found_and_nothing_else(tmp_path, references, mag, seeing_arcsec):
    telescope = Telescope(tmp_path / "raw")
    telescope.night(mag, seeing_arcsec)
    outcome = calibrate([tmp_path / "raw"], tmp_path / "out")
    assert [one.status for one in outcome.products] == ["done"] * 3
    found, used = find_with_references([read_frame(Path(one.path)) for one in outcome.products], references, pointing_error_arcsec=150.0)
    assert used.endswith("ref_NGC4993_r.fits")
    assert not found.failed
    assert len(found.candidates) == 1
    candidate = found.candidates[0]
    assert separation_arcsec(candidate.ra_deg, candidate.dec_deg, *NEW) < 1.0
    assert candidate.host == "NGC4993"
    assert candidate.mag == pytest.approx(mag, abs=0.2)


def test_a_night_without_a_transient_gives_none(tmp_path, references):
    telescope = Telescope(tmp_path / "raw")
    telescope.night(None)
    outcome = calibrate([tmp_path / "raw"], tmp_path / "out")
    found, _ = find_with_references([read_frame(Path(one.path)) for one in outcome.products], references, pointing_error_arcsec=150.0)
    assert len(found.searched) == 3
    assert found.candidates == ()
