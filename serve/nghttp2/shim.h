/* Shim: one HTTP/2 connection of a gRPC server, declared for C and for cffi; see shim.c. */
typedef struct { char *at; size_t length, room; } quorem_bytes;
typedef struct { uint32_t stream, kind, code, at, head, body, timeout; } quorem_record;
typedef struct {
    uint32_t window, header_bytes; /* of a stream; of a header list */
    int32_t calm;                  /* how much more is borne of frames that do nothing */
    uint32_t flooded, greeted, pongs; /* whether more came; whether SETTINGS came; answers to our pings */
    uint32_t newest;               /* stream whose beginning was told */
    size_t held, unsent, sent;     /* bytes that streams hold; replies among them; replies that have left */
    size_t given;                  /* bytes of the records of the last feed */
    quorem_bytes records, blob, out; /* of the last feed; of the last flush */
    void *streams;
} quorem_session;
ssize_t quorem_feed(quorem_session *, nghttp2_session *, const char *data, size_t length);
ssize_t quorem_flush(quorem_session *, nghttp2_session *, size_t most);
int quorem_reply(quorem_session *, nghttp2_session *, int32_t stream, const char *head, size_t head_bytes,
                 const char *body, size_t body_bytes, const char *tail, size_t tail_bytes);
void quorem_close(quorem_session *);
int quorem_on_begin(nghttp2_session *, const nghttp2_frame *, void *);
int quorem_on_header(nghttp2_session *, const nghttp2_frame *, const uint8_t *, size_t, const uint8_t *, size_t,
                     uint8_t, void *);
int quorem_on_chunk(nghttp2_session *, uint8_t, int32_t, const uint8_t *, size_t, void *);
int quorem_on_frame(nghttp2_session *, const nghttp2_frame *, void *);
int quorem_on_sent(nghttp2_session *, const nghttp2_frame *, void *);
int quorem_on_close(nghttp2_session *, int32_t, uint32_t, void *);
