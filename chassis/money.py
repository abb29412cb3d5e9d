"""Money: integer minor units and an ISO 4217 currency. No floats anywhere (law 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

# ISO 4217 active codes by number of minor-unit digits; funds, metals and testing codes are left out.
_NO_DIGITS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DIGITS = "BHD IQD JOD KWD LYD OMR TND"
_TWO_DIGITS = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP "
    "CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS "
    "INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN "
    "MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE "
    "SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER ZAR ZMW "
    "ZWG"
)
EXPONENTS: dict[str, int] = {
    **dict.fromkeys(_TWO_DIGITS.split(), 2),
    **dict.fromkeys(_NO_DIGITS.split(), 0),
    **dict.fromkeys(_THREE_DIGITS.split(), 3),
}
"""Digits of the minor unit by ISO 4217 code."""


def exponent(currency: str) -> int:
    """Return the digits of a currency's minor unit; ValueError for a code that ISO 4217 does not list."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise ValueError(f"{currency!r} is not an ISO 4217 currency code") from None


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in minor units of one currency. Mixing currencies raises ValueError."""

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        exponent(self.currency)

    @classmethod
    def zero(cls, currency: str) -> "Money":
        return cls(0, currency)

    @classmethod
    def parse(cls, text: str, currency: str) -> "Money":
        """Read a decimal such as `29.85`; ValueError where it isn't one or has too many digits."""
        try:
            minor = Decimal(text).scaleb(exponent(currency))
        except InvalidOperation:
            raise ValueError(f"{text!r} is not an amount") from None
        if not minor.is_finite() or minor != minor.to_integral_value():
            raise ValueError(f"{text!r} is not a whole number of {currency} minor units")
        return cls(int(minor), currency)

    def _same(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise ValueError(f"{self.currency} and {other.currency} don't mix")

    def __add__(self, other: "Money") -> "Money":
        self._same(other)
        return Money(self.amount_minor + other.amount_minor, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        self._same(other)
        return Money(self.amount_minor - other.amount_minor, self.currency)

    def __neg__(self) -> "Money":
        return Money(-self.amount_minor, self.currency)

    def __lt__(self, other: "Money") -> bool:
        self._same(other)
        return self.amount_minor < other.amount_minor

    def __le__(self, other: "Money") -> bool:
        self._same(other)
        return self.amount_minor <= other.amount_minor

    def multiply_ratio(self, numerator: int, denominator: int) -> "Money":
        """Return this times numerator/denominator, rounded half to even on the minor unit."""
        if denominator <= 0:
            raise ValueError("the denominator must be positive")
        whole, rest = divmod(self.amount_minor * numerator, denominator)
        up = rest * 2 > denominator or (rest * 2 == denominator and whole % 2 == 1)
        return Money(whole + up, self.currency)

    def allocate(self, weights: Sequence[int]) -> list["Money"]:
        """Split by weights so that the parts sum to the whole: the largest remainders get the odd units."""
        total = sum(weights)
        if total <= 0 or min(weights) < 0:
            raise ValueError("weights must not be negative and must have a positive sum")
        parts = [divmod(self.amount_minor * weight, total) for weight in weights]
        left = self.amount_minor - sum(whole for whole, _ in parts)
        order = sorted(range(len(parts)), key=lambda index: (-parts[index][1], index))
        odd = set(order[:left])
        return [Money(whole + (index in odd), self.currency) for index, (whole, _) in enumerate(parts)]

    def format(self) -> str:
        """Return the amount for people, as in `316,985.75 USD`."""
        digits = exponent(self.currency)
        return f"{Decimal(self.amount_minor).scaleb(-digits):,.{digits}f} {self.currency}"
