# zlib's raw deflate; only the names in use.

cdef extern from * nogil:
    """
    #define ZLIB_CONST    /* next_in points to const */
    #include <zlib.h>
    """
    ctypedef struct z_stream:
        const unsigned char *next_in
        unsigned int avail_in
        unsigned char *next_out
        unsigned int avail_out
        int data_type
    int deflateInit2(
        z_stream *stream, int level, int method, int window_bits, int memory_level, int strategy
    )
    int deflate(z_stream *stream, int flush)
    int deflateReset(z_stream *stream)
    int deflateEnd(z_stream *stream)
    int inflateInit2(z_stream *stream, int window_bits)
    int inflate(z_stream *stream, int flush)
    int inflateReset(z_stream *stream)
    int inflateSetDictionary(
        z_stream *stream, const unsigned char *dictionary, unsigned int size
    )
    int inflateEnd(z_stream *stream)
    int Z_OK
    int Z_STREAM_END
    int Z_BUF_ERROR
    int Z_MEM_ERROR
    int Z_DEFLATED
    int Z_DEFAULT_STRATEGY
    int Z_SYNC_FLUSH
