/* SPDX-License-Identifier: MIT */
/*
 * load.c - loads the library named in its argument, which contains a core, uses it and closes it.
 * The library must stay: threads are registered with memory of its, and fork() calls into it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static void *use_and_close(void *name)
{
    int (*use)(void);
    void *library = dlopen(name, RTLD_NOW);
    CHECK_CASE(library != NULL, "%s", dlerror());
    void *symbol = dlsym(library, "use");
    CHECK(symbol != NULL);
    memcpy(&use, &symbol, sizeof use);
    CHECK(use() == 42);
    CHECK(dlclose(library) == 0);
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    int status;
    CHECK(count == 2);
    CHECK(pthread_create(&thread, NULL, use_and_close, arguments[1]) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(dlopen(arguments[1], RTLD_NOW | RTLD_NOLOAD) != NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
