/* Fuzz of the shim: connections whose frames are spoilt at random, and a server that answers them at random.
 *
 *     fuzz_shim SEED COUNT SECONDS FILE…     what clients have sent, of which each case is a mutation
 *
 * A case is made from its number alone: SEED runs again what failed at it. What must hold is checked after every feed;
 * the rest is the sanitizers'. tests/fuzz_shim.py compiles and runs it. */
#include "../serve/nghttp2/shim.c"
#include <stdio.h>
#include <time.h>

enum { MOST_FRAMES = 400, MOST_BYTES = 1 << 17, MOST_FILES = 64, HEADER_BYTES = 4096, WINDOW = 65535, MOST_STREAMS = 20 };
static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
static const char OK[] = ":status\000200\0content-type\0application/grpc\0", TRAILERS[] = "grpc-status\0000\0grpc-message\0fine\0";
typedef struct { const uint8_t *at; size_t length; } span;

static uint64_t state, number, fed;
static span files[MOST_FILES];
static int count_of_files;

static uint64_t draw(uint64_t below) { /* splitmix64 */
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9, z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % below;
}

static void must(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "case %llu: %s does not hold\n", (unsigned long long)number, what);
    abort();
}

static nghttp2_session *begin(quorem_session *q) {
    static nghttp2_session_callbacks *callbacks;
    static nghttp2_option *options;
    if (!callbacks) {
        must(!nghttp2_session_callbacks_new(&callbacks) && !nghttp2_option_new(&options), "memory");
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, quorem_on_begin);
        nghttp2_session_callbacks_set_on_header_callback(callbacks, quorem_on_header);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, quorem_on_chunk);
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, quorem_on_frame);
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, quorem_on_sent);
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, quorem_on_close);
        nghttp2_option_set_no_auto_window_update(options, 1);
        nghttp2_option_set_no_closed_streams(options, 1);
    }
    nghttp2_session *http2;
    nghttp2_settings_entry settings[] = {{3, MOST_STREAMS}, {4, WINDOW}, {6, HEADER_BYTES}};
    must(!nghttp2_session_server_new2(&http2, callbacks, q, options), "memory");
    nghttp2_submit_settings(http2, 0, settings, 3);
    nghttp2_session_set_local_window_size(http2, 0, 0, 1 << 20);
    return http2;
}

/* A frame that is right in itself: of every type, with flags and streams that occur. */
static size_t frame(uint8_t *to) {
    static const char one[] = "\x83\x86\x44\x02/x\x41\x01x\x5f\x10" "application/grpc\x40\x02te\x08trailers";
    static const char two[] = "\x83\x86\x04\x02/x\x01\x01x\x00\x0cgrpc-timeout\x03" "99m";
    static const char three[] = "\x83\x86\x84\x41\x01x\x00\x0cgrpc-timeout\x28" "0123456789012345678901234567890123456789"
                                "\x40\x0d" "authorization\x0f" "Bearer 12345678";
    static const span heads[] = {{(uint8_t *)one, sizeof one - 1}, {(uint8_t *)two, sizeof two - 1},
                                 {(uint8_t *)"\x83\x86\xbe\xbf\xc0", 5}, {(uint8_t *)"\x83\x84\x86", 3},
                                 {(uint8_t *)three, sizeof three - 1}};
    uint8_t type = draw(11), flags = draw(4) ? draw(2) | draw(2) << 2 : draw(256);
    uint32_t id = type == 4 || type == 6 || type == 7 ? 0 : draw(8) ? 1 + 2 * draw(24) : draw(64);
    size_t length = draw(24);
    for (size_t i = 0; i < length; i++) to[9 + i] = draw(256);
    if (type == 1 || type == 9) {
        span head = heads[draw(5)];
        memcpy(to + 9, head.at, length = head.length), flags &= ~0x28;
        if (draw(8)) flags |= 4;
    } else if (!type && draw(2)) {
        length = draw(16) ? draw(200) : draw(60000);
        memset(to + 9, 0, length), flags &= ~8;
        if (length > 4) to[12] = draw(6) ? (length - 5) >> 8 : draw(256), to[13] = length - 5;
    } else if (type == 6) length = 8;
    else if (type == 4) length = flags & 1 ? 0 : 6 * draw(4), to[9] = 0, to[10] = draw(8);
    else if (type == 3 || type == 8) length = 4, to[9] &= 0x7f;
    else if (type == 2) length = 5;
    for (int i = 0; i < 3; i++) to[i] = length >> (16 - 8 * i);
    to[3] = type, to[4] = flags;
    for (int i = 0; i < 4; i++) to[5 + i] = id >> (24 - 8 * i);
    return 9 + length;
}

/* A file's frames, of which some are left out, told twice, made anew, reordered or spoilt. */
static size_t mutate(uint8_t *to) {
    span file = files[draw(count_of_files)], frames[MOST_FRAMES];
    size_t count = 0, length = sizeof PREFACE - 1, at = length;
    static uint8_t made[64][9 + 60000];
    int fresh = 0;
    for (size_t size; count < MOST_FRAMES / 2 && at + 9 <= file.length; at += size) {
        size = 9 + (file.at[at] << 16 | file.at[at + 1] << 8 | file.at[at + 2]);
        if (at + size > file.length) break;
        frames[count++] = (span){file.at + at, size};
    }
    memcpy(to, PREFACE, length);
    for (int edits = draw(12); edits > 0; edits--) {
        size_t place = draw(count + 1), other = draw(count + 1);
        if (draw(3) && fresh < 64 && count < MOST_FRAMES) {
            memmove(frames + place + 1, frames + place, (count++ - place) * sizeof *frames);
            frames[place].at = made[fresh], frames[place].length = frame(made[fresh]), fresh++;
        } else if (place < count && other < count) {
            span one = frames[place];
            if (draw(2)) frames[place] = frames[other], frames[other] = one;
            else memmove(frames + place, frames + place + 1, (--count - place) * sizeof *frames);
        }
    }
    for (size_t i = 0; i < count; i++)
        for (int times = draw(20) ? 1 : draw(60); times > 0 && length + frames[i].length <= MOST_BYTES; times--)
            memcpy(to + length, frames[i].at, frames[i].length), length += frames[i].length;
    for (int flips = draw(2) ? 0 : draw(6); flips > 0; flips--) to[draw(length)] ^= 1 << draw(8);
    return draw(8) ? length : draw(length + 1);
}

static void check(quorem_session *q) {
    size_t held = 0, unsent = 0;
    for (stream *s = q->streams; s; s = s->next) {
        held += s->in.length + s->out.length, unsent += s->out.length - s->sent;
        must(*s->link == s && (!s->next || s->next->id < s->id), "streams are a list, newest first");
    }
    must(held == q->held && unsent == q->unsent && q->unsent <= q->held, "what streams hold is counted");
}

/* What a server does with the records of a feed, and what it might. */
static void serve(quorem_session *q, nghttp2_session *http2, ssize_t length) {
    static char body[70000];
    must(length % sizeof(quorem_record) == 0 && (size_t)length <= q->records.length, "records are whole");
    for (ssize_t i = 0; i < length / (ssize_t)sizeof(quorem_record); i++) {
        quorem_record each = ((quorem_record *)q->records.at)[i];
        must(each.kind >= REQUEST && each.kind <= CLOSED, "a record's kind");
        must((size_t)each.at + each.head + each.body + each.timeout <= q->blob.length || each.kind == CLOSED, "records stand in the blob");
        must(each.timeout <= TIMEOUT_BYTES && each.head <= 2 * HEADER_BYTES, "heads are short");
        size_t size = draw(4) ? draw(100) : draw(sizeof body);
        switch (draw(each.kind == REQUEST ? 4 : 8)) {
        case 0: quorem_reply(q, http2, each.stream, OK, sizeof OK - 1, body, size, TRAILERS, sizeof TRAILERS - 1); break;
        case 1: quorem_reply(q, http2, each.stream, OK, sizeof OK - 1, NULL, 0, NULL, 0); break;
        case 2: quorem_reply(q, http2, each.stream, NULL, 0, NULL, 0, NULL, 0); break;
        case 3: quorem_reply(q, http2, each.stream, draw(2) ? OK : NULL, sizeof OK - 1, body, size, NULL, 0); break;
        case 4: nghttp2_session_set_local_window_size(http2, 0, each.stream, draw(1 << 18)); break;
        case 5: nghttp2_session_consume_stream(http2, each.stream, each.body); break;
        case 6: nghttp2_submit_rst_stream(http2, 0, each.stream, draw(14)); break;
        }
    }
    if (!draw(8)) quorem_reply(q, http2, 1 + 2 * draw(24), NULL, 0, body, draw(100), draw(2) ? TRAILERS : NULL, sizeof TRAILERS - 1);
    if (!draw(50)) nghttp2_submit_ping(http2, 0, NULL);
    if (!draw(50)) nghttp2_submit_shutdown_notice(http2);
    if (!draw(50)) nghttp2_submit_goaway(http2, 0, nghttp2_session_get_last_proc_stream_id(http2), draw(14), (uint8_t *)"why", 3);
    check(q);
}

static void run(void) {
    static uint8_t data[MOST_BYTES];
    quorem_session q = {.window = WINDOW, .header_bytes = HEADER_BYTES, .calm = draw(4) ? CALM : 20};
    nghttp2_session *http2 = begin(&q);
    ssize_t taken = 0, length = mutate(data);
    fed += length;
    for (ssize_t at = 0, size; at < length && taken >= 0; at += size) {
        size = draw(3) ? length - at : 1 + (ssize_t)draw(draw(2) ? 40 : 4000);
        if (size > length - at) size = length - at;
        char *exact = malloc(size); /* so that one byte beyond it is found */
        memcpy(exact, data + at, size);
        taken = quorem_feed(&q, http2, exact, size);
        free(exact);
        if (taken >= 0) serve(&q, http2, taken);
        for (int more = draw(4); more > 0 && quorem_flush(&q, http2, draw(2) ? 1 << 20 : 1 + draw(5000)) > 0; more--) check(&q);
        if (q.flooded) break;
    }
    quorem_flush(&q, http2, 1 << 20);
    check(&q);
    nghttp2_session_del(http2);
    quorem_close(&q);
    must(!q.held && !q.unsent && !q.streams, "nothing is held at the end");
}

int main(int count_of_words, char **words) {
    static uint8_t corpus[1 << 22];
    size_t used = 0;
    must(count_of_words > 4, "SEED COUNT SECONDS FILE…");
    for (int i = 4; i < count_of_words && count_of_files < MOST_FILES; i++) {
        FILE *file = fopen(words[i], "rb");
        must(file != NULL, words[i]);
        size_t length = fread(corpus + used, 1, sizeof corpus - used, file);
        files[count_of_files++] = (span){corpus + used, length}, used += length;
        fclose(file);
    }
    uint64_t first = strtoull(words[1], NULL, 10), count = strtoull(words[2], NULL, 10);
    time_t end = time(NULL) + atoll(words[3]);
    for (number = first; number - first < count && ((number & 255) || time(NULL) < end); number++) state = number * 0x2545f4914f6cdd1d, run();
    printf("%llu cases from %llu on, %llu bytes: no finding\n", (unsigned long long)(number - first), (unsigned long long)first, (unsigned long long)fed);
    return 0;
}
