/* What a HeadError (head.pxd) means: its status, its reason for logs and docs/errors.md,
 * and a sentence for people. In C because it is a constant table; rows stand in the
 * order of the codes, -1 first. */
#ifndef PROXY_ENGINE_HTTP1_HEAD_ERROR_H
#define PROXY_ENGINE_HTTP1_HEAD_ERROR_H

struct head_error {
    int status;
    const char *reason;
    const char *text;
};

enum { HEAD_ERROR_COUNT = 19 };

static const struct head_error head_errors[HEAD_ERROR_COUNT] = {
    {400, "bad_request_line",
     "The request line is not method, target and version with single spaces."},
    {400, "bad_version",
     "The HTTP version is malformed."},
    {505, "version_unsupported",
     "Only HTTP/1.0 and HTTP/1.1 are spoken here."},
    {400, "bad_target",
     "The request target is not a valid path or http URL."},
    {400, "bad_field",
     "A header field has a malformed name, a folded line or a forbidden character."},
    {400, "bad_line_end",
     "A line does not end with CR LF, or holds a stray CR, LF or NUL."},
    {400, "bad_host",
     "There must be exactly one Host field with a valid host and port."},
    {400, "bad_content_length",
     "Content-Length must be given once, in decimal digits."},
    {400, "content_length_too_big",
     "Content-Length is larger than any body can be."},
    {400, "bad_transfer_encoding",
     "Transfer-Encoding must be given once, as chunked, in HTTP/1.1."},
    {400, "ambiguous_length",
     "Content-Length and Transfer-Encoding exclude each other."},
    {400, "bad_chunk",
     "The chunked body is malformed."},
    {400, "bad_trailer",
     "A trailer field is malformed, forbidden in trailers, or there are too many."},
    {414, "line_too_long",
     "The request line is longer than 8 KiB."},
    {431, "too_large",
     "The header fields are larger than 32 KiB or more than 128."},
    {405, "method_not_allowed",
     "This method is not forwarded."},
    {502, "bad_status_line",
     "The status line is malformed."},
    {417, "bad_expect",
     "The only expectation that can be met is 100-continue."},
    {400, "bad_upgrade",
     "The Upgrade field is malformed or does not fit the request."},
};

#endif
