"""Public data by name: where they lie, what they may be used for, how they are cited."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Way = Literal["part of a store", "a file for each day", "archives", "a store for each variable", "requests by month"]
"""How data lie at their address, and so how they are copied."""


@dataclass(frozen=True)
class PublicData:
    """Data that anybody may copy.

    Attributes:
        name: by which `etesian.data` knows them.
        title: what they are.
        purpose: what they are for.
        way: how they lie at their address.
        base: the address below which they lie; another can take its place.
        places: what lies below the base: a path by resolution in degrees, or by itself; of daily files a pattern.
        interval: between two times.
        first: first date.
        last: last date; None where data are still added.
        size: in words, before compression where not said otherwise.
        licence: under which they may be used.
        citation: of those who made them.
        page: where more is told.
        options: of `etesian.data` that choose a part of them.
    """

    name: str
    title: str
    purpose: str
    way: Way
    base: str
    places: Mapping[float, str]
    interval: str
    first: str | None
    last: str | None
    size: str
    licence: str
    citation: str
    page: str
    options: tuple[str, ...] = field(repr=False)

    @property
    def resolutions(self) -> str:
        """Degrees between grid points, in words."""
        return ", ".join(f"{degrees:g}°" for degrees in self.places if degrees) or "as in the model"

    @property
    def period(self) -> str:
        """First and last date, in words."""
        if self.first is None:
            return "as in the experiment"
        return f"{self.first} to {self.last}" if self.last else f"from {self.first} on"

    def __str__(self) -> str:
        rows = {
            "for": self.purpose,
            "resolution": f"{self.resolutions}, {self.interval}",
            "period": self.period,
            "size": self.size,
            "licence": self.licence,
            "cite": self.citation,
            "options": ", ".join(self.options) or "none",
            "at": self.base,
            "see": self.page,
        }
        return "\n".join([f"{self.name}: {self.title}", *(f"  {key:<10}  {text}" for key, text in rows.items())])


class PublicList(dict[str, PublicData]):
    """Public data by name; shown as a table."""

    def __repr__(self) -> str:
        rows = [("NAME", "PERIOD", "RESOLUTION", "WHAT")]
        rows += [(data.name, data.period, f"{data.resolutions}, {data.interval}", data.title) for data in self.values()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join("  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows)


_COPERNICUS = (
    "Licence to Use Copernicus Products: free, also commercially; acknowledge the Copernicus Climate Change Service"
)

_HERSBACH = "Hersbach et al. 2020, The ERA5 global reanalysis, QJRMS 146, 1999–2049, doi 10.1002/qj.3803"

PUBLIC = PublicList(
    {
        data.name: data
        for data in (
            PublicData(
                name="era5",
                title="the ERA5 reanalysis on coarser grids, by WeatherBench 2",
                purpose="forecasts, their scores, downscaling: the atmosphere on 13 pressure levels and at the surface",
                way="part of a store",
                base="gs://weatherbench2/datasets/era5",
                places={
                    5.625: "1959-2023_01_10-6h-64x32_equiangular_conservative.zarr",
                    1.5: "1959-2023_01_10-6h-240x121_equiangular_with_poles_conservative.zarr",
                    0.25: "1959-2023_01_10-wb13-6h-1440x721_with_derived_variables.zarr",
                },
                interval="6-hourly",
                first="1959-01-01",
                last="2023-01-10",
                size="a field and year take 12 MB at 5.625°, 170 MB at 1.5°, 6.1 GB at 0.25°",
                licence=_COPERNICUS,
                citation=f"{_HERSBACH}; Rasp et al. 2024, WeatherBench 2, JAMES 16, doi 10.1029/2023MS004019",
                page="https://weatherbench2.readthedocs.io/en/latest/data-guide.html",
                options=("years", "resolution", "channels", "region", "every"),
            ),
            PublicData(
                name="arco-era5",
                title="the ERA5 reanalysis as it is, by Google Research",
                purpose="all hours and all 37 pressure levels, and years after WeatherBench 2's",
                way="part of a store",
                base="gs://gcp-public-data-arco-era5/ar",
                places={0.25: "full_37-1h-0p25deg-chunk-1.zarr-v3"},
                interval="hourly",
                first="1940-01-01",
                last=None,
                size="a field and year take 36 GB; all levels of a time are one chunk, which any part needs",
                licence=_COPERNICUS,
                citation=f"{_HERSBACH}; Carver and Merose 2023, ARCO-ERA5, 22nd Conf. on AI for Env. Science",
                page="https://github.com/google-research/arco-era5",
                options=("years", "channels", "region", "every"),
            ),
            PublicData(
                name="cmip6",
                title="climate models of CMIP6, by Pangeo",
                purpose="projections, and pretraining on simulated climates",
                way="a store for each variable",
                base="gs://cmip6",
                places={0: "pangeo-cmip6.csv"},
                interval="as in the table",
                first=None,
                last=None,
                size="differs; the list of all stores, which is copied first, has over 400,000 lines",
                licence="each model's own, said before it is copied",
                citation="Eyring et al. 2016, GMD 9, doi 10.5194/gmd-9-1937-2016, and the model's own data set",
                page="https://pangeo-data.github.io/pangeo-cmip6-cloud",
                options=("years", "channels", "region", "model", "experiment", "member", "table", "grid"),
            ),
            PublicData(
                name="oisst",
                title="sea surface temperature without gaps, NOAA's OISST 2.1",
                purpose="the ocean's surface: states to forecast, a truth for gap filling, a climatology",
                way="a file for each day",
                base="https://www.ncei.noaa.gov/data/sea-surface-temperature-optimum-interpolation/v2.1/access/avhrr",
                places={0.25: "{:%Y%m}/oisst-avhrr-v02r01.{:%Y%m%d}.nc"},
                interval="daily",
                first="1981-09-01",
                last=None,
                size="a year's files take about 0.6 GB, compressed",
                licence="open data, no restrictions on use",
                citation="Huang et al. 2021, Journal of Climate 34, 2923–2939, doi 10.1175/JCLI-D-20-0166.1",
                page="https://www.ncei.noaa.gov/products/optimum-interpolation-sst",
                options=("years",),
            ),
            PublicData(
                name="mur",
                title="sea surface temperature at 1 km, JPL's MUR 4.1 of GHRSST, by the Farallon Institute",
                purpose="fine fields of a region: downscaling and gap filling",
                way="part of a store",
                base="s3://mur-sst",
                places={0.01: "zarr-v1"},
                interval="daily",
                first="2002-06-01",
                last="2020-01-20",
                size="a day of the whole globe takes 2.6 GB: name a region",
                licence="no restrictions on use",
                citation="Chin et al. 2017, Remote Sensing of Environment 200, doi 10.1016/j.rse.2017.07.029",
                page="https://registry.opendata.aws/mur",
                options=("years", "channels", "region"),
            ),
            PublicData(
                name="climatebench",
                title="emissions and climate of NorESM2, ClimateBench",
                purpose="projections: the recipe projection_climatebench",
                way="archives",
                base="https://zenodo.org/record/7064308/files",
                places={0: "train_val.tar.gz test.tar.gz"},
                interval="yearly",
                first="1850",
                last="2100",
                size="said before it is copied",
                licence="as the record at Zenodo says",
                citation="Watson-Parris et al. 2022, ClimateBench v1.0, JAMES 14, doi 10.1029/2021MS002954",
                page="https://doi.org/10.5281/zenodo.5196512",
                options=(),
            ),
            PublicData(
                name="era5-cds",
                title="the ERA5 reanalysis by the Climate Data Store",
                purpose="variables, hours and days that others do not copy, up to some five days ago",
                way="requests by month",
                base="https://cds.climate.copernicus.eu",
                places={0.25: "reanalysis-era5"},
                interval="hourly",
                first="1940-01-01",
                last=None,
                size="a field and year take 36 GB before compression: name a region, hours or a resolution",
                licence=_COPERNICUS,
                citation=_HERSBACH,
                page="https://cds.climate.copernicus.eu/datasets/reanalysis-era5-single-levels",
                options=("years", "resolution", "channels", "region", "every"),
            ),
            *(
                PublicData(
                    name=name,
                    title=f"sea surface temperature and ice without gaps, OSTIA {which}, by Copernicus Marine",
                    purpose="the ocean's surface at 5 km: a truth for gap filling, a lower boundary, fine fields",
                    way="requests by month",
                    base="https://data.marine.copernicus.eu",
                    places={0.05: dataset},
                    interval="daily",
                    first=first,
                    last=None,
                    size="a field of the whole globe and a day takes 0.1 GB: name a region",
                    licence="Copernicus Marine Service's: free, also commercially; say that its information was used",
                    citation=f"Good et al. 2020, Remote Sensing 12, doi 10.3390/rs12040720, and doi 10.48670/{doi}",
                    page=f"https://doi.org/10.48670/{doi}",
                    options=("years", "channels", "region"),
                )
                for name, which, dataset, first, doi in (
                    ("ostia", "reprocessed", "METOFFICE-GLO-SST-L4-REP-OBS-SST", "1981-10-01", "moi-00168"),
                    ("ostia-nrt", "of every day", "METOFFICE-GLO-SST-L4-NRT-OBS-SST-V2", "2007-01-01", "moi-00165"),
                )
            ),
        )
    }
)
"""Data that `etesian.data` copies, by name."""
