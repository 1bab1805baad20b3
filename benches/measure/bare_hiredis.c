/* The barest subscriber on hiredis: bare_hiredis PORT CHANNEL COUNT. Says "ready" once it is subscribed, then takes
 * COUNT messages and prints how many there were, and the seconds and processor seconds from the first to the last. */

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static double wall(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return used.ru_utime.tv_sec + used.ru_utime.tv_usec / 1e6 + used.ru_stime.tv_sec + used.ru_stime.tv_usec / 1e6;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    redisContext *context = redisConnect("127.0.0.1", atoi(argv[1]));
    if (context == NULL || context->err) return 1;
    redisReply *reply = redisCommand(context, "SUBSCRIBE %s", argv[2]);
    if (reply == NULL) return 1;
    freeReplyObject(reply);
    puts("ready");
    fflush(stdout);
    long count = atol(argv[3]), seen = 0, bytes = 0;
    double wall_from = 0, cpu_from = 0;
    while (seen < count) {
        if (redisGetReply(context, (void **)&reply) != REDIS_OK) return 1;
        if (seen == 0) {
            wall_from = wall();
            cpu_from = cpu();
        }
        if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3) {
            bytes += reply->element[2]->len;
            seen++;
        }
        freeReplyObject(reply);
    }
    printf("%ld %.6f %.6f\n", seen, wall() - wall_from, cpu() - cpu_from);
    return bytes == 0;
}
