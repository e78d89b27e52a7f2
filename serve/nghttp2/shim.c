/* Shim: one HTTP/2 connection of a gRPC server. libnghttp2 does the protocol; what its callbacks meet is collected here
 * and read once a feed, as records and one blob: Python is not called for every frame and header. A stream's bytes are
 * bounded by its window, which only Python opens further; its headers, CONTINUATIONs among them, by libnghttp2. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include "library.h"
#include "shim.h"

enum { REQUEST = 1, OPEN, LONG, DATA, END, CLOSED, PREFIX = 5, MOST_FIELDS = 16, KEPT = 1 << 18, CALM = 1000 };
enum { HEADERS = 1, RST_STREAM = 3, SETTINGS, PING = 6, END_STREAM = 1, ACK = 1, END_OF_DATA = 1, NO_END_STREAM = 2 };
enum { FAILED = -902, TEMPORARY = -521, DEFERRED = -508, TIMEOUT = 6, NAMED, TIMEOUT_BYTES = 10 };
static const char *const NAMES[NAMED] = {":method", ":path", "content-type", "te", "grpc-encoding", "authorization",
                                         "grpc-timeout"};

typedef struct stream {
    struct stream *next, **link;
    quorem_bytes in, out, tail; /* head and body; messages of the reply; its trailers */
    size_t sent;                /* of `out` */
    uint32_t id, head, fields;  /* bytes of the head; of all fields, as HPACK counts them */
    uint8_t timeout[TIMEOUT_BYTES], timed;
    uint8_t headed, told, follows, whole, ended; /* whole: the request; ended: the reply */
} stream;

static stream *find(nghttp2_session *http2, int32_t id) { return nghttp2_session_get_stream_user_data(http2, id); }
static int push(quorem_bytes *to, const void *from, size_t length) {
    size_t room = to->room ? to->room : 256;
    while (room - to->length < length) room *= 2;
    char *at = room > to->room ? realloc(to->at, room) : to->at;
    if (!at) return FAILED;
    to->at = at, to->room = room;
    if (length) memcpy(at + to->length, from, length);
    return to->length += length, 0;
}

static void empty(quorem_bytes *each, size_t kept) {
    each->length = 0;
    if (each->room > kept) free(each->at), each->at = NULL, each->room = 0;
}
static int hold(quorem_session *q, quorem_bytes *to, const void *from, size_t length) {
    return q->held += length, push(to, from, length);
}
static void drop(quorem_session *q, quorem_bytes *each) { q->held -= each->length, empty(each, 0); }
static int noise(quorem_session *q, int cost) { return q->flooded |= (q->calm -= cost) < 0, 0; }

static int note(quorem_session *q, stream *s, uint32_t kind, uint32_t code, const void *body, size_t length) {
    quorem_record new = {s->id, kind, code, q->blob.length, 0, length, 0};
    return push(&q->records, &new, sizeof new) || push(&q->blob, body, length) ? FAILED : 0;
}

static int tell(quorem_session *q, stream *s, uint32_t kind) {
    if (note(q, s, kind, s->fields > q->header_bytes, s->in.at, s->in.length)) return FAILED;
    quorem_record *own = (quorem_record *)(q->records.at + q->records.length) - 1;
    own->head = s->head, own->body -= s->head, own->timeout = s->timed, s->told = 1;
    return push(&q->blob, s->timeout, s->timed);
}

int quorem_on_begin(nghttp2_session *http2, const nghttp2_frame *frame, void *user) {
    stream *s = find(http2, frame->hd.stream_id), **first = (stream **)&((quorem_session *)user)->streams;
    if (s) return 0; /* trailers */
    if (!(s = calloc(1, sizeof *s))) return FAILED;
    s->id = frame->hd.stream_id, s->link = first, s->next = *first, *first = s;
    if (s->next) s->next->link = &s->next;
    return nghttp2_session_set_stream_user_data(http2, s->id, s);
}

int quorem_on_header(nghttp2_session *http2, const nghttp2_frame *frame, const uint8_t *name, size_t named,
                     const uint8_t *value, size_t valued, uint8_t which, void *user) {
    quorem_session *q = user;
    stream *s = find(http2, frame->hd.stream_id);
    if (!s || s->headed) return 0;
    if ((s->fields += named + valued + 32) > 4 * q->header_bytes) return noise(q, 20), TEMPORARY; /* a reset */
    if (s->fields > q->header_bytes) return 0;
    for (which = 0; which < NAMED && (strlen(NAMES[which]) != named || memcmp(NAMES[which], name, named)); which++);
    if (which == TIMEOUT) memcpy(s->timeout, value, s->timed = valued < TIMEOUT_BYTES ? valued : TIMEOUT_BYTES);
    if (which >= TIMEOUT) return 0;
    return hold(q, &s->in, &"012345"[which], 1) || hold(q, &s->in, value, valued) || hold(q, &s->in, "", 1);
}

int quorem_on_chunk(nghttp2_session *http2, uint8_t flags, int32_t id, const uint8_t *data, size_t length, void *user) {
    quorem_session *q = user;
    stream *s = find(http2, id);
    (void)flags;
    if (nghttp2_session_consume_connection(http2, length)) return FAILED;
    if (!s || s->ended || q->flooded) return 0;
    if (s->follows) return note(q, s, DATA, 0, data, length);
    size_t before = s->in.length - s->head; /* where the beginning is told of, the message's size shows */
    if (hold(q, &s->in, data, length)) return FAILED;
    if (!s->told || before >= PREFIX || before + length < PREFIX) return 0;
    uint32_t message = 0;
    for (int i = 1; i < PREFIX; i++) message = message << 8 | (uint8_t)s->in.at[s->head + i];
    return message > q->window - PREFIX ? note(q, s, LONG, message, NULL, 0) : 0;
}

int quorem_on_frame(nghttp2_session *http2, const nghttp2_frame *frame, void *user) {
    quorem_session *q = user;
    int type = frame->hd.type, last = frame->hd.flags & END_STREAM;
    stream *s = type <= HEADERS ? find(http2, frame->hd.stream_id) : NULL;
    q->greeted |= type == SETTINGS, q->pongs += type == PING && last == ACK;
    if (q->flooded || (type >= SETTINGS && last == ACK)) return 0;
    if (!s) return noise(q, type == SETTINGS || type == PING ? 10 : 2 * (type == RST_STREAM));
    if (!s->headed) s->headed = 1, s->head = s->in.length;
    if (!last) return noise(q, 2 * !frame->hd.length);
    s->whole = 1, q->calm += q->calm < CALM;
    if (s->ended || s->follows) return s->ended ? 0 : note(q, s, END, 0, NULL, 0);
    return tell(q, s, REQUEST) ? FAILED : (drop(q, &s->in), 0);
}

int quorem_on_sent(nghttp2_session *http2, const nghttp2_frame *frame, void *user) {
    stream *s = frame->hd.type <= HEADERS && frame->hd.flags & END_STREAM ? find(http2, frame->hd.stream_id) : NULL;
    return user && s && !s->whole ? nghttp2_submit_rst_stream(http2, 0, s->id, 0) : 0; /* it was answered early */
}

static int forget(quorem_session *q, stream *s) {
    q->unsent -= s->out.length - s->sent;
    drop(q, &s->in), drop(q, &s->out), empty(&s->tail, 0);
    if ((*s->link = s->next)) s->next->link = s->link;
    return free(s), 0;
}

int quorem_on_close(nghttp2_session *http2, int32_t id, uint32_t code, void *user) {
    stream *s = find(http2, id);
    if (!s || (s->told && !s->ended && note(user, s, CLOSED, code, NULL, 0))) return s ? FAILED : 0;
    return forget(user, s), nghttp2_session_set_stream_user_data(http2, id, NULL);
}

static size_t fields(nghttp2_nv *to, char *at, size_t length) { /* of NAME 0 VALUE 0 and so on */
    size_t count = 0, name, value;
    for (char *end = at + length; at < end && count < MOST_FIELDS; at += name + value + 2) {
        name = strlen(at), value = strlen(at + name + 1);
        to[count++] = (nghttp2_nv){(uint8_t *)at, (uint8_t *)at + name + 1, name, value, 0};
    }
    return count;
}

static ssize_t read_reply(nghttp2_session *http2, int32_t id, uint8_t *to, size_t room, uint32_t *flags,
                          nghttp2_data_source *source, void *user) {
    quorem_session *q = user;
    nghttp2_nv trailers[MOST_FIELDS];
    stream *s = find(http2, id);
    if (!s || !source) return TEMPORARY;
    ssize_t length = s->out.length - s->sent < room ? s->out.length - s->sent : room;
    if (length) memcpy(to, s->out.at + s->sent, length);
    s->sent += length, q->sent += length, q->unsent -= length;
    if (s->sent < s->out.length) return length;
    drop(q, &s->out), s->sent = 0;
    if (!s->ended) return length ? length : DEFERRED;
    *flags |= END_OF_DATA | NO_END_STREAM;
    return nghttp2_submit_trailer(http2, id, trailers, fields(trailers, s->tail.at, s->tail.length)) ? FAILED : length;
}

/* Send a head, a message, trailers, each if there; trailers or a head alone end the stream. None: follow its bytes. */
int quorem_reply(quorem_session *q, nghttp2_session *http2, int32_t id, const char *head, size_t head_bytes,
                 const char *body, size_t body_bytes, const char *tail, size_t tail_bytes) {
    const uint8_t prefix[PREFIX] = {0, body_bytes >> 24, body_bytes >> 16, body_bytes >> 8, body_bytes};
    const nghttp2_data_provider messages = {{0}, read_reply};
    nghttp2_nv headers[MOST_FIELDS];
    stream *s = find(http2, id);
    if (!s || s->ended) return 0; /* it was reset */
    if (!head && !body && !tail) return s->follows = 1, drop(q, &s->in), 0;
    size_t sent = s->sent, rest = s->out.length - sent; /* what was sent need not be kept */
    if (sent > rest) memmove(s->out.at, s->out.at + sent, rest), q->held -= sent, s->out.length = rest, s->sent = 0;
    if (body && (hold(q, &s->out, prefix, PREFIX) || hold(q, &s->out, body, body_bytes))) return FAILED;
    if (body) q->unsent += PREFIX + body_bytes;
    if (tail && push(&s->tail, tail, tail_bytes)) return FAILED;
    if ((s->ended = tail || !body)) drop(q, &s->in);
    if (!head) return (nghttp2_session_resume_data(http2, id), 0); /* or it is being sent */
    head_bytes = fields(headers, (char *)head, head_bytes);
    return nghttp2_submit_response(http2, id, headers, head_bytes, s->ended && !tail ? NULL : &messages);
}

ssize_t quorem_feed(quorem_session *q, nghttp2_session *http2, const char *data, size_t length) {
    size_t since = q->records.length - q->given; /* of streams that closed while replies were sent */
    if (since) memmove(q->records.at, q->records.at + q->given, since);
    empty(&q->records, since ? (size_t)-1 : KEPT), empty(&q->blob, KEPT);
    q->records.length = since;
    ssize_t read = nghttp2_session_mem_recv(http2, (const uint8_t *)data, length);
    uint32_t told = q->newest;
    for (stream *s = q->streams; s && s->id > told; s = s->next) {
        if (s->headed && s->id > q->newest) q->newest = s->id;
        if (s->headed && !s->told && !s->ended && tell(q, s, OPEN)) return FAILED;
    }
    q->given = q->records.length;
    return read < 0 ? read : (ssize_t)q->given;
}

ssize_t quorem_flush(quorem_session *q, nghttp2_session *http2, size_t most) {
    const uint8_t *data;
    ssize_t length = 0;
    empty(&q->out, KEPT);
    while (q->out.length < most && (length = nghttp2_session_mem_send(http2, &data)) > 0)
        if (push(&q->out, data, length)) return FAILED;
    return length < 0 ? length : (ssize_t)q->out.length;
}

void quorem_close(quorem_session *q) {
    while (q->streams) forget(q, q->streams);
    empty(&q->records, 0), empty(&q->blob, 0), empty(&q->out, 0);
}
