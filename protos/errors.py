"""The errors of quorem: each says the rule, what was found, where, and what to do.

    QuoremError
    ├── RecipeError            a recipe asks for what cannot be
    ├── DataError              a row, a column or a file of the user's data breaks a rule
    ├── PlanError              a partition plan that cannot exist
    │   ├── NotComplementary   two ids would share every row
    │   │   └── TooFewTuples   fewer tuples of rows than ids
    │   ├── SharedFactor       moduli that are not pairwise coprime
    │   ├── EmptyField         a field of no ids
    │   ├── OneId              several tables for a single id
    │   ├── TooManyRows        a table of more rows than there are ids
    │   ├── TooFewCollisions   less than one id to a row
    │   ├── Overflow           an id or a divisor beyond int64
    │   ├── OverBudget         tables that do not fit the bytes that were given
    │   ├── WrongDims          dimensions that a combine cannot join
    │   └── WrongClasses       a table of classes that leaves ids out, or names one twice
    ├── NetError               a list of layers that does not fit together
    ├── ArtifactError          a run directory or a bundle that cannot be trusted
    │   ├── MissingFile        a file that the manifest or the format names is not there
    │   ├── WrongDigest        a file is not the one that was written
    │   ├── NewerFormat        written by a later version of quorem
    │   ├── Malformed          not what its format says (cut short, edited, unknown keys)
    │   ├── UnsafePath         a path that leaves its directory
    │   ├── OffGrid            a value of a table of few bits that none of its codes gives
    │   └── WrongShape         a tensor is absent, or not of the shape or dtype that the plan gives it
    ├── ParityError            two evaluators of one model disagree
    ├── InputError             rows that a model cannot take
    │   ├── UnknownColumn      a column that the schema does not have
    │   ├── MissingColumn      a feature that the rows do not have
    │   ├── WrongType          a column of another type than the feature
    │   ├── WrongLength        a column, a tensor or a bag of another length than promised
    │   ├── OutOfRange         an id outside the range that the schema enforces
    │   └── TooLarge           more rows, bytes or items than the limits allow
    ├── NotFound               a model, a version or a label that is not served
    ├── WrongSchema            the caller was built, or the plan was searched, for another schema
    ├── Unimplemented          a part of the protocol that this server does not have
    ├── Unavailable            the endpoint or the model cannot answer now
    ├── Overloaded             the server has as much work as it can finish in time
    ├── TooLate                the caller's deadline has passed, or would before an answer
    ├── Gone                   the caller has cancelled the call, or its connection has ended
    ├── Unauthenticated        a call that needs a token came without one that is known
    └── Forbidden              a call that this server does not let anybody make

Errors carry no status code of any transport: serve maps them in one table.
"""


class QuoremError(Exception):
    """A rule that was broken, told so that the reader can mend it.

    Args:
        rule: what holds for every valid input, as a sentence.
        found: what was met instead.
        where: the file, key, row, field or tensor it was met in.
        remedy: what to do about it.
    """

    def __init__(self, rule: str, *, found: str = "", where: str = "", remedy: str = "") -> None:
        super().__init__(rule, found, where, remedy)
        self.rule, self.found, self.where, self.remedy = rule, found, where, remedy

    def __str__(self) -> str:
        parts = [self.rule.rstrip(".") + "."]
        if self.found:
            parts.append(f"Found: {self.found.rstrip('.')}.")
        if self.remedy:
            parts.append(self.remedy if self.remedy.endswith("?") else self.remedy.rstrip(".") + ".")
        return (f"{self.where}: " if self.where else "") + " ".join(parts)

    def as_dict(self) -> dict[str, str]:
        """The error for a script: name, rule, found, where, remedy."""
        return {
            "error": type(self).__name__,
            "rule": self.rule,
            "found": self.found,
            "where": self.where,
            "remedy": self.remedy,
        }


class RecipeError(QuoremError):
    """A recipe asks for what cannot be."""


class DataError(QuoremError):
    """A row, a column or a file of the user's data breaks a rule."""


class PlanError(QuoremError):
    """A partition plan that cannot exist."""


class NotComplementary(PlanError):
    """Two ids of a field would share every row of its tables."""


class TooFewTuples(NotComplementary):
    """Radices or moduli whose product is below the number of ids."""


class SharedFactor(PlanError):
    """Moduli that are not pairwise coprime."""


class EmptyField(PlanError):
    """A field of no ids."""


class OneId(PlanError):
    """Several tables for a field of a single id."""


class TooManyRows(PlanError):
    """A table of more rows than ids can reach."""


class TooFewCollisions(PlanError):
    """Less than one id to a row."""


class Overflow(PlanError):
    """An id, a radix or a divisor beyond int64."""


class OverBudget(PlanError):
    """Tables that do not fit the bytes that were given."""


class WrongDims(PlanError):
    """Dimensions that a combine cannot join."""


class WrongClasses(PlanError):
    """A table of classes that leaves ids out, or names one twice."""


class NetError(QuoremError):
    """A list of layers that does not fit together."""


class ArtifactError(QuoremError):
    """A run directory or a bundle that cannot be trusted."""


class MissingFile(ArtifactError):
    """A file that the manifest or the format names is not there."""


class WrongDigest(ArtifactError):
    """A file is not the one that was written."""


class NewerFormat(ArtifactError):
    """Written by a later version of quorem."""


class Malformed(ArtifactError):
    """Not what its format says: cut short, edited, or with unknown keys."""


class UnsafePath(ArtifactError):
    """A path that leaves its directory."""


class OffGrid(ArtifactError):
    """A value of a table of few bits that none of its codes gives, or a grid that cannot be."""


class WrongShape(ArtifactError):
    """A tensor is absent, or not of the shape or dtype that the plan gives it."""


class ParityError(QuoremError):
    """Two evaluators of one model disagree by more than the stated bound."""


class InputError(QuoremError):
    """Rows that a model cannot take."""


class UnknownColumn(InputError):
    """A column that the schema does not have."""


class MissingColumn(InputError):
    """A feature that the rows do not have."""


class WrongType(InputError):
    """A column of another type than its feature."""


class WrongLength(InputError):
    """A column, a tensor or a bag of another length than promised."""


class OutOfRange(InputError):
    """An id outside the range that the schema enforces."""


class TooLarge(InputError):
    """More rows, bytes or items than the limits allow."""


class NotFound(QuoremError):
    """A model, a version or a label that is not served."""


class WrongSchema(QuoremError):
    """The caller was built for another schema than the model that is served, or a plan or a teacher is of another."""


class Unimplemented(QuoremError):
    """A part of the protocol that this server does not have."""


class Unavailable(QuoremError):
    """The endpoint or the model cannot answer now."""


class Overloaded(QuoremError):
    """The server has as much work as it can finish in time.

    retry_s: when to try again, seconds.
    """

    retry_s: float = 0.0


class TooLate(QuoremError):
    """The caller's deadline has passed, or would before an answer."""


class Gone(QuoremError):
    """The caller has cancelled the call, or its connection has ended."""


class Unauthenticated(QuoremError):
    """A call that needs a token came without one that is known."""


class Forbidden(QuoremError):
    """A call that this server does not let anybody make."""
