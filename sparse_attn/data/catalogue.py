"""The data sets of the field that can be fetched: where from, how they are checked, and on what terms they are given.

Sizes and checksums were published by others who fetched the same files: DIV2K's by TensorFlow Datasets
(`div2k/checksums.tsv`), the MD5 sums of the two archives from Seoul by torchSR, the SHA-256 and the size of
`benchmark.tar` by sisr's tests. Of Flickr2K.tar no SHA-256 and no size are published.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparse_attn.errors import unknown_name

_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_EDSR = "https://cv.snu.ac.kr/research/EDSR/"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A `.zip` or `.tar` file to fetch.

    Args:
        url: the official place.
        size: bytes; None where nobody has published it.
        sha256: hexadecimal; None likewise. What is got is then recorded, and a later download held to it.
        md5: hexadecimal, where it is published.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Pick:
    """Members of an archive that belong into one folder.

    Args:
        members: a regular expression of their whole names; what its group is called becomes the file's stem.
        folder: where they go, below the part's folder.
        count: how many there must be.
    """

    members: str
    folder: str
    count: int


@dataclass(frozen=True)
class Part:
    """A folder that is made of one archive, whole or not at all.

    Args:
        folder: below the data folder.
        archive: what it is made of.
        picks: which members, and how many.
    """

    folder: str
    archive: Archive
    picks: tuple[Pick, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Something to train on or to measure with.

    Args:
        name: for the command line.
        title: as papers call it.
        images: how many, in words.
        paper: who made it.
        terms: on what terms it is given.
        parts: the folders it consists of.
    """

    name: str
    title: str
    images: str
    paper: str
    terms: str
    parts: tuple[Part, ...]


_BENCHMARK = Archive(
    url=_EDSR + "benchmark.tar",
    size=250_112_000,
    sha256="80c21c333bbf6ceb5308b7243761f8284478274413a97b96f1d63e9045fd93e8",
    md5="4ace41d33c2384b97e6b320cd0afd6ba",
)


def _benchmark(title: str, count: int, *, paper: str, terms: str) -> Dataset:
    """`eval/<title>/x2|x3|x4/{HR,LR}`: HR is the same at each scale, since `evaluate` crops it to a multiple itself."""
    picks = []
    for scale in (2, 3, 4):
        top = f"benchmark/{title}"
        picks += [
            Pick(rf"{top}/HR/([\w-]+)\.png", f"x{scale}/HR", count),
            Pick(rf"{top}/LR_bicubic/X{scale}/([\w-]+)x{scale}\.png", f"x{scale}/LR", count),
        ]
    return Dataset(
        name=title.lower(),
        title=title,
        images=f"{count}, with bicubic LR at x2, x3, x4",
        paper=paper,
        terms=terms,
        parts=(Part(f"eval/{title}", _BENCHMARK, tuple(picks)),),
    )


_DATASETS = (
    Dataset(
        name="div2k",
        title="DIV2K",
        images="800 to train, 100 to validate",
        paper="Agustsson and Timofte, CVPR Workshops 2017",
        terms="For academic research only; the images are from the Internet, and their owners hold the copyright.",
        parts=(
            Part(
                "DIV2K/train",
                Archive(
                    url=_DIV2K + "DIV2K_train_HR.zip",
                    size=3_530_603_713,
                    sha256="9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
                ),
                (Pick(r"DIV2K_train_HR/(\d{4})\.png", ".", 800),),
            ),
            Part(
                "DIV2K/valid",
                Archive(
                    url=_DIV2K + "DIV2K_valid_HR.zip",
                    size=448_993_893,
                    sha256="20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
                ),
                (Pick(r"DIV2K_valid_HR/(\d{4})\.png", ".", 100),),
            ),
        ),
    ),
    Dataset(
        name="flickr2k",
        title="Flickr2K",
        images="2650 to train",
        paper="Lim et al., CVPR Workshops 2017",
        terms="No licence is stated; the images are from Flickr, each on its owner's terms. Used for research.",
        parts=(
            Part(
                "Flickr2K",
                Archive(url=_EDSR + "Flickr2K.tar", md5="5d3f39443d5e9489bff8963f8f26cb03"),
                (Pick(r"Flickr2K/Flickr2K_HR/(\d{6})\.png", ".", 2650),),
            ),
        ),
    ),
    _benchmark(
        "Set5",
        5,
        paper="Bevilacqua et al., BMVC 2012",
        terms="No licence is stated; used for research.",
    ),
    _benchmark(
        "Set14",
        14,
        paper="Zeyde et al., LNCS 2010",
        terms="No licence is stated; used for research.",
    ),
    _benchmark(
        "B100",
        100,
        paper="Martin et al., ICCV 2001; the test images of BSDS300",
        terms="For non-commercial research and education.",
    ),
    _benchmark(
        "Urban100",
        100,
        paper="Huang et al., CVPR 2015",
        terms="No licence is stated with the files; the images are from Flickr. Used for research.",
    ),
)

CATALOGUE = {dataset.name: dataset for dataset in _DATASETS}


def find_dataset(name: str) -> Dataset:
    """The data set of that name, in any case.

    Raises:
        UnknownNameError: there is none; the message lists close matches.
    """
    if name.lower() not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    return CATALOGUE[name.lower()]
