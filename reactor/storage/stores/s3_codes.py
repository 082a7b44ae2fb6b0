"""The error codes of S3 servers and of STS: whose fault each is, and why.

The codes are those of Amazon S3, AWS STS and botocore's retry tables (a test compares the latter), and those known of
MinIO, SeaweedFS, Ceph, Cloudflare R2, Google Cloud Storage, Alibaba OSS and Supabase Storage. Codes are compared as the
server sends them, with upper and lower case. An unknown code is the upload's fault.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from attrs import frozen

from reactor.core.refusal import Guard, Scope


@frozen
class Fault:
    """Whose fault a refusal is; see `Refusal`, which has the same fields."""

    scope: Scope
    guard: Guard = Guard.BUCKET
    check: str = ""
    may_be_shared: bool = False
    is_size: bool = False
    """Whether the object is too large."""


CREDENTIALS: Final = Fault(
    Scope.SHARED,
    Guard.STORE,
    "the credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE",
)
ROLE: Final = Fault(
    Scope.SHARED, Guard.STORE, "the role and its token: AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE"
)
ACCOUNT: Final = Fault(Scope.SHARED, Guard.STORE, "the account at the store's provider")
CLOCK: Final = Fault(Scope.SHARED, Guard.STORE, "this host's clock")
ENDPOINT: Final = Fault(Scope.SHARED, Guard.STORE, "AWS_ENDPOINT_URL, and its scheme")
REGION: Final = Fault(Scope.SHARED, Guard.BUCKET, "AWS_REGION, AWS_ENDPOINT_URL, REACTOR_S3_ADDRESSING")
BUCKET: Final = Fault(Scope.SHARED, Guard.BUCKET, "that the bucket exists at AWS_ENDPOINT_URL, and is in use")
BUCKET_FULL: Final = Fault(Scope.SHARED, Guard.BUCKET, "the quota of the bucket or of its owner")
KMS_KEY: Final = Fault(Scope.SHARED, Guard.BUCKET, "REACTOR_S3_SSE, and the bucket's KMS key and its policy")
BUSY: Final = Fault(Scope.PASSING, Guard.STORE)
NETWORK: Final = Fault(Scope.PASSING, Guard.STORE)
UPLOAD: Final = Fault(Scope.UPLOAD)
DENIED: Final = Fault(
    Scope.UPLOAD, check="the rights of the store's credentials: they need s3:PutObject", may_be_shared=True
)
TOO_LARGE: Final = Fault(Scope.UPLOAD, is_size=True)


class Row(NamedTuple):
    """One line of the table."""

    code: str
    fault: Fault
    reason: str
    """Why it is this fault, in a few words."""


# fmt: off
_AWS = (
    # credentials, clock and account: no request of anybody is accepted until an operator acts
    Row("ExpiredToken", CREDENTIALS, "the session token has expired"),
    Row("InvalidAccessKeyId", CREDENTIALS, "the store has no such key, or it was removed"),
    Row("InvalidSecurity", CREDENTIALS, "the credentials aren't valid"),
    Row("InvalidToken", CREDENTIALS, "the session token is malformed or of another key"),
    Row("TokenRefreshRequired", CREDENTIALS, "the session token must be refreshed"),
    Row("SignatureDoesNotMatch", CREDENTIALS, "wrong secret key, or a proxy changes signed headers"),
    Row("CredentialsNotSupported", CREDENTIALS, "the store accepts no signed requests"),
    Row("MissingAuthenticationToken", CREDENTIALS, "the request has no signature"),
    Row("MissingSecurityHeader", CREDENTIALS, "a header of the signature is missing"),
    Row("MissingSecurityElement", CREDENTIALS, "an element of the signature is missing"),
    Row("InvalidTokenId", CREDENTIALS, "the session token is of another key, or has expired"),
    Row("AuthorizationHeaderMalformed", REGION, "signed for another region than the bucket's"),
    Row("AuthorizationQueryParametersError", CREDENTIALS, "the signature isn't valid"),
    Row("RequestTimeTooSkewed", CLOCK, "this clock and the store's differ by more than 15 min"),
    Row("RequestExpired", CLOCK, "the signature is too old: a clock is wrong"),
    Row("AccountProblem", ACCOUNT, "the account is blocked, often for payment"),
    Row("AllAccessDisabled", BUCKET, "all access to this bucket is disabled"),
    Row("NotSignedUp", ACCOUNT, "the account has no subscription to the store"),
    Row("InvalidPayer", ACCOUNT, "all access is disabled until a payment"),
    Row("OptInRequired", ACCOUNT, "the account must subscribe to the service first"),
    Row("InsecureTransport", ENDPOINT, "the store accepts only https"),
    # region, route and bucket: every upload to this bucket is refused
    Row("PermanentRedirect", REGION, "the bucket has another endpoint"),
    Row("PermanentRedirectControlError", REGION, "the operation has another endpoint"),
    Row("TemporaryRedirect", REGION, "the bucket was moved or made lately; DNS is old"),
    Row("Redirect", REGION, "the bucket has another endpoint"),
    Row("IllegalLocationConstraintException", REGION, "the bucket is in another region"),
    Row("InvalidLocationConstraint", REGION, "the region doesn't exist"),
    Row("InvalidRegion", REGION, "the region doesn't exist, or isn't enabled"),
    Row("InvalidRegionName", REGION, "the region's name isn't valid"),
    Row("EndpointNotFound", REGION, "the endpoint serves no such bucket"),
    Row("InvalidAddressingHeader", REGION, "this style of addressing isn't supported"),
    Row("PathStyleNotSupported", REGION, "this store refuses path style"),
    Row("NoSuchBucket", BUCKET, "the bucket doesn't exist, or was deleted"),
    Row("InvalidBucketState", UPLOAD, "the bucket's state (lock, versioning) forbids this request"),
    Row("InvalidBucketOwnerAWSAccountID", BUCKET, "the bucket belongs to another account"),
    Row("NoSuchAccessPoint", BUCKET, "the access point doesn't exist"),
    Row("NoSuchMultiRegionAccessPoint", BUCKET, "the access point doesn't exist"),
    Row("InvalidAccessPoint", BUCKET, "the access point isn't valid"),
    Row("InvalidAccessPointAliasError", BUCKET, "the alias of the access point isn't valid"),
    Row("DeviceNotActiveError", BUCKET, "the outpost's device isn't active"),
    Row("OutpostError", BUCKET, "the outpost can't be used"),
    Row("ServerSideEncryptionConfigurationNotFoundError", KMS_KEY, "the bucket has no encryption"),
    Row("KMS.DisabledException", KMS_KEY, "the key is disabled"),
    Row("KMS.InvalidKeyUsageException", KMS_KEY, "the key can't encrypt"),
    Row("KMS.InvalidStateException", KMS_KEY, "the key is in a wrong state"),
    Row("KMS.KMSInvalidStateException", KMS_KEY, "the key is to be deleted, or isn't enabled yet"),
    Row("KMS.KeyUnavailableException", BUSY, "KMS can't use the key at the moment"),
    Row("KMS.NotFoundException", KMS_KEY, "the key doesn't exist"),
    Row("KMS.AccessDeniedException", KMS_KEY, "the key's policy doesn't allow its use"),
    Row("KMS.OptInRequired", KMS_KEY, "the account has no subscription to KMS"),
    Row("KMS.DependencyTimeoutException", BUSY, "KMS waited for its own dependency"),
    Row("KMS.InternalFailureException", BUSY, "KMS failed"),
    Row("KMS.KMSInternalException", BUSY, "KMS failed"),
    Row("KMS.LimitExceededException", BUSY, "KMS limits requests"),
    Row("KMS.ThrottlingException", BUSY, "KMS limits requests"),
    # the store is busy or failing: a later attempt may succeed
    Row("Busy", BUSY, "the store is busy"),
    Row("ConditionalRequestConflict", BUSY, "another request for the same object at the same time"),
    Row("InsufficientCapacity", BUSY, "the store is full at the moment"),
    Row("InternalError", BUSY, "the store failed"),
    Row("InternalFailure", BUSY, "the store failed"),
    Row("OperationAborted", BUSY, "another operation on the same bucket or object"),
    Row("RequestTimeout", NETWORK, "the body came too slowly"),
    Row("RequestTimeoutException", NETWORK, "the body came too slowly"),
    Row("ServerBusy", BUSY, "the store is busy"),
    Row("ServiceFailure", BUSY, "the store failed"),
    Row("ServiceUnavailable", BUSY, "the store is overloaded"),
    Row("ServiceUnavailableException", BUSY, "the store is overloaded"),
    Row("SlowDown", BUSY, "the store limits requests"),
    Row("TokenCodeInvalidError", CREDENTIALS, "the MFA code is wrong"),
    # the upload's bytes were verified before the last byte was sent, so these mean a fault of the network
    Row("BadDigest", NETWORK, "bytes changed on the way"),
    Row("ConnectionClosedByRequester", NETWORK, "the connection broke"),
    Row("IncompleteBody", NETWORK, "bytes were lost on the way"),
    Row("InvalidDigest", NETWORK, "the digest's header changed on the way"),
    Row("XAmzContentChecksumMismatch", NETWORK, "bytes changed on the way"),
    Row("XAmzContentSHA256Mismatch", NETWORK, "bytes changed on the way"),
    # this object, or this request
    Row("AccessDenied", DENIED, "no permission for this object, or for all of them"),
    Row("AccessForbidden", DENIED, "no permission for this object, or for all of them"),
    Row("MethodNotAllowed", UPLOAD, "this object takes no such request"),
    Row("EntityTooLarge", TOO_LARGE, "the object is larger than the store accepts"),
    Row("MaxMessageLengthExceeded", TOO_LARGE, "the request is larger than the store accepts"),
    Row("MaxPostPreDataLengthExceededError", TOO_LARGE, "the request is larger than the store accepts"),
    Row("InlineDataTooLarge", TOO_LARGE, "the inline data is larger than the store accepts"),
    Row("EntityTooSmall", UPLOAD, "the object is smaller than the store accepts"),
    Row("EncryptionTypeNotAllowed", KMS_KEY, "the bucket refuses this encryption"),
    Row("InvalidArgument", UPLOAD, "a part of this request isn't valid"),
    Row("InvalidBucketName", UPLOAD, "the row names a bucket that no store can have"),
    Row("InvalidEncryptionAlgorithmError", KMS_KEY, "the store has no such encryption"),
    Row("InvalidObjectState", UPLOAD, "the object is archived"),
    Row("InvalidRequest", UPLOAD, "the request as a whole isn't valid"),
    Row("InvalidStorageClass", UPLOAD, "the object's storage class isn't valid"),
    Row("InvalidTag", UPLOAD, "a tag isn't valid"),
    Row("InvalidURI", UPLOAD, "the object's path can't be parsed"),
    Row("InvalidWriteOffset", UPLOAD, "an append at the wrong place"),
    Row("KeyTooLongError", UPLOAD, "the object's path is too long"),
    Row("MetadataTooLarge", UPLOAD, "the object's metadata is too large"),
    Row("MissingContentLength", UPLOAD, "the request has no length"),
    Row("MissingRequestBodyError", UPLOAD, "the request has no body"),
    Row("NoSuchKey", UPLOAD, "the object doesn't exist"),
    Row("NoSuchUpload", UPLOAD, "the multipart upload doesn't exist"),
    Row("NoSuchVersion", UPLOAD, "the version doesn't exist"),
    Row("NotModified", UPLOAD, "the object is unchanged"),
    Row("NotImplemented", UPLOAD, "a header asks for what the store lacks"),
    Row("ObjectAlreadyInActiveTierError", UPLOAD, "the object is in this tier already"),
    Row("ObjectLockConfigurationNotFoundError", UPLOAD, "the bucket has no object lock"),
    Row("PreconditionFailed", UPLOAD, "a condition of the request doesn't hold"),
    Row("RequestHeaderSectionTooLarge", UPLOAD, "the headers are too large"),
    Row("RestoreAlreadyInProgress", UPLOAD, "the object is being restored"),
    Row("UnexpectedContent", UPLOAD, "the request takes no body"),
    Row("UnsupportedArgument", UPLOAD, "the store doesn't support an argument"),
)

_THROTTLING = tuple(Row(code, BUSY, "a throttling code of botocore") for code in (
    "BandwidthLimitExceeded", "EC2ThrottledException", "LimitExceededException", "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException", "ReplicatedWriteConflictException", "RequestLimitExceeded",
    "RequestThrottled", "RequestThrottledException", "ThrottledException", "Throttling", "ThrottlingException",
    "TooManyRequestsException", "TransactionInProgressException",
))
# fmt: on


def table(*rows: Iterable[Row]) -> Mapping[str, Row]:
    """Return the rows by code. Raises ValueError if a code has two rows."""
    found: dict[str, Row] = {}
    for row in (row for part in rows for row in part):
        if row.code in found:
            raise ValueError(f"{row.code} has two rows")
        found[row.code] = row
    return MappingProxyType(found)


AWS: Final = table(_AWS, _THROTTLING)
"""Maps each code of Amazon S3, and each throttling code of botocore, to its row."""
