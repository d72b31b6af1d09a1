"""What is known: exposures, products, what went into them, how good they are. SQLAlchemy; SQLite here, any dialect it speaks elsewhere.

exposure       one row per raw file (its sha256)            product        one row per product id
ambiguity      what was doubtful about it                   product_input  raw frames and products that made it
quality        a measured value with its limits             (masters: product.detail holds what matching needs)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import JSON, Engine, ForeignKey, Index, String, create_engine, delete, event, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from nightbell.calibration.intake import Exposure, Setup
from nightbell.calibration.matching import Master
from nightbell.contracts.errors import Failed

__all__ = ["CalibrationIndex"]


class _Table(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON}


class _ExposureRow(_Table):
    __tablename__ = "exposure"
    raw_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    data_sha256: Mapped[str] = mapped_column(String(64))
    camera: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(8))
    filter: Mapped[str | None] = mapped_column(String(64))
    exposure_s: Mapped[float | None]
    date_obs_utc: Mapped[str | None] = mapped_column(String(32))
    night: Mapped[str] = mapped_column(String(10))
    object_name: Mapped[str | None] = mapped_column(String(128))
    target_id: Mapped[str | None] = mapped_column(String(128))
    path: Mapped[str]
    status: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(default="")
    __table_args__ = (Index("exposure_night", "night", "camera", "kind"), Index("exposure_object", "object_name"))


class _AmbiguityRow(_Table):
    __tablename__ = "ambiguity"
    raw_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    code: Mapped[str] = mapped_column(String(16), primary_key=True)
    detail: Mapped[str] = mapped_column(primary_key=True)


class _ProductRow(_Table):
    __tablename__ = "product"
    product_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), index=True)
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(64))
    night: Mapped[str] = mapped_column(String(10), index=True)
    created_utc: Mapped[str] = mapped_column(String(32))
    superseded_by: Mapped[str | None] = mapped_column(String(64), default=None)
    is_bad: Mapped[str] = mapped_column(default="")
    detail: Mapped[dict[str, Any]]


class _InputRow(_Table):
    __tablename__ = "product_input"
    product_id: Mapped[str] = mapped_column(ForeignKey("product.product_id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), primary_key=True)
    input_id: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class _QualityRow(_Table):
    __tablename__ = "quality"
    product_id: Mapped[str] = mapped_column(ForeignKey("product.product_id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[float]


class CalibrationIndex:
    """The index in one database. One writer; readers are never blocked (WAL)."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _sqlite_pragmas)
        self._where = self._engine.url.database or url
        with self._named():
            _Table.metadata.create_all(self._engine)

    @classmethod
    def in_folder(cls, folder: Path) -> CalibrationIndex:
        """The index `index.sqlite` of an output folder, made when it is not there. Raises `Failed` for a folder that cannot be used."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            remedy = "Give a folder in which you may write"
            raise Failed(f"the folder cannot be made: {error.strerror}", where=str(folder), remedy=remedy) from error
        return cls(f"sqlite:///{(folder / 'index.sqlite').as_posix()}")

    def close(self) -> None:
        """Give up the connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._named(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The database's own errors in our words."""
        try:
            yield
        except SQLAlchemyError as error:
            # A DBAPIError holds what the database said; its own text is a page of SQL.
            what = f"the index cannot be used: {getattr(error, 'orig', None) or error}"
            remedy = "Check space, permissions and that no other program holds it; moved away, it is made again from the frames"
            raise Failed(what, where=self._where, remedy=remedy, code="index") from error

    def put_exposures(self, exposures: Iterable[tuple[Exposure, str, str]]) -> None:
        """Add or renew (exposure, status, detail)."""
        with self._session() as session:
            for exposure, status, detail in exposures:
                session.merge(
                    _ExposureRow(
                        raw_id=exposure.raw_id,
                        data_sha256=exposure.data_sha256,
                        camera=exposure.setup.camera,
                        kind=exposure.kind,
                        filter=exposure.filter,
                        exposure_s=exposure.exposure_s,
                        date_obs_utc=exposure.date_obs_utc,
                        night=exposure.night,
                        object_name=exposure.object_name,
                        target_id=exposure.target_id,
                        path=str(exposure.path),
                        status=status,
                        detail=detail,
                    )
                )
                for doubt in exposure.ambiguities:
                    session.merge(_AmbiguityRow(raw_id=exposure.raw_id, code=doubt.code, detail=doubt.detail))

    def paths(self, *, kind: str, camera: str, night: str) -> list[Path]:
        """Raw frames of that kind that are known and not refused."""
        query = select(_ExposureRow.path).where(
            _ExposureRow.kind == kind, _ExposureRow.camera == camera, _ExposureRow.night == night, _ExposureRow.status != "failed"
        )
        with self._session() as session:
            return [Path(path) for path in session.scalars(query.order_by(_ExposureRow.raw_id))]

    def put_product(
        self,
        *,
        product_id: str,
        kind: str,
        path: str,
        sha256: str,
        status: str,
        night: str,
        created_utc: str,
        inputs: Iterable[tuple[str, str]],
        detail: Mapping[str, Any],
        quality: Mapping[str, float],
    ) -> None:
        """Add or renew a product with its inputs (role, id) and measured values."""
        with self._session() as session:
            session.merge(
                _ProductRow(
                    product_id=product_id,
                    kind=kind,
                    path=path,
                    sha256=sha256,
                    status=status,
                    night=night,
                    created_utc=created_utc,
                    detail=dict(detail),
                    is_bad="",
                )
            )
            session.flush()
            session.execute(delete(_InputRow).where(_InputRow.product_id == product_id))
            session.add_all(_InputRow(product_id=product_id, role=role, input_id=one) for role, one in sorted(set(inputs)))
            for name, value in quality.items():
                session.merge(_QualityRow(product_id=product_id, name=name, value=value))

    def product(self, product_id: str) -> dict[str, Any] | None:
        """{path, sha256, status, detail} of a product, or None."""
        with self._session() as session:
            row = session.get(_ProductRow, product_id)
            return None if row is None else {"path": row.path, "sha256": row.sha256, "status": row.status, "detail": row.detail}

    def product_paths(self) -> set[str]:
        """Where all products lie."""
        with self._session() as session:
            return set(session.scalars(select(_ProductRow.path)))

    def products_named(self, beginning: str) -> list[str]:
        """Ids of products that begin so; at least six digits tell something."""
        if len(beginning) < 6:
            return []
        with self._session() as session:
            ids = select(_ProductRow.product_id).where(_ProductRow.product_id.startswith(beginning, autoescape=True))
            return list(session.scalars(ids.order_by(_ProductRow.product_id)))

    def bad_reason(self, product_id: str) -> str:
        """Why a product was marked bad; empty when it was not."""
        with self._session() as session:
            row = session.get(_ProductRow, product_id)
            return "" if row is None else row.is_bad

    def put_master(self, master: Master, *, created_utc: str, quality: Mapping[str, float]) -> None:
        """Add a master; earlier ones made of a part of its frames are superseded."""
        self.put_product(
            product_id=master.product_id,
            kind=f"master_{master.kind}",
            path=master.path,
            sha256=master.sha256,
            status=master.status,
            night=master.night,
            created_utc=created_utc,
            inputs=[("raw", one) for one in master.inputs],
            detail=dataclasses.asdict(master),
            quality=quality,
        )
        mine = set(master.inputs)
        with self._session() as session:
            session.execute(update(_ProductRow).where(_ProductRow.product_id == master.product_id).values(superseded_by=None))
            for other in session.scalars(select(_ProductRow).where(_ProductRow.kind == f"master_{master.kind}")):
                theirs = set(other.detail["inputs"])
                if other.product_id != master.product_id and other.superseded_by is None and theirs <= mine:
                    other.superseded_by = master.product_id

    def masters(self) -> list[Master]:
        """Masters in force: neither superseded nor marked bad."""
        query = select(_ProductRow.detail).where(
            _ProductRow.kind.startswith("master_"), _ProductRow.superseded_by.is_(None), _ProductRow.is_bad == ""
        )
        with self._session() as session:
            return [_master(detail) for detail in session.scalars(query.order_by(_ProductRow.product_id))]

    def mark_bad(self, product_id: str, reason: str) -> list[str]:
        """Take a master out of use; gives the ids of all products that were made with it."""
        with self._session() as session:
            session.execute(update(_ProductRow).where(_ProductRow.product_id == product_id).values(is_bad=reason))
            return list(
                session.scalars(select(_InputRow.product_id).where(_InputRow.input_id == product_id).order_by(_InputRow.product_id))
            )

    def query(self, *, night: str | None = None, status: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
        """Rows of exposures, newest first, with their products and doubts."""
        query = select(_ExposureRow).order_by(_ExposureRow.date_obs_utc.desc(), _ExposureRow.raw_id).limit(limit)
        if night:
            query = query.where(_ExposureRow.night == night)
        if status:
            query = query.where(_ExposureRow.status == status)
        with self._session() as session:
            rows = []
            for row in session.scalars(query):
                values = {column.name: getattr(row, column.name) for column in _ExposureRow.__table__.columns}
                doubts = session.scalars(select(_AmbiguityRow).where(_AmbiguityRow.raw_id == row.raw_id).order_by(_AmbiguityRow.code))
                values["ambiguities"] = [f"{one.code}: {one.detail}" for one in doubts]
                products = select(_InputRow.product_id).where(_InputRow.input_id == row.raw_id).order_by(_InputRow.product_id)
                values["products"] = list(session.scalars(products))
                rows.append(values)
            return rows


def _master(detail: Mapping[str, Any]) -> Master:
    values = dict(detail)
    setup = dict(values["setup"])
    # JSON knows no tuples.
    setup["shape"], setup["binning"] = tuple(setup["shape"]), tuple(setup["binning"])
    values["setup"] = Setup(**setup)
    values["inputs"], values["notes"] = tuple(values["inputs"]), tuple(values["notes"])
    return Master(**values)


def _sqlite_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
