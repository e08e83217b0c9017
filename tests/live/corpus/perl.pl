# SPDX-License-Identifier: GPL-2.0-or-later
# Arrays, hashes and long strings, and children that go on with them; waits in the middle.
use strict;
use warnings;

sub work {
    my @children;
    my @a = map { "x" x ($_ % 700) } 1 .. 20000;
    my %h = map { $_ => [ 1 .. 10 ] } 1 .. 5000;
    my $long = "";
    $long .= "y" x 100_000 for 1 .. 60;
    for my $n (1 .. 3) {
        my $pid = fork() // die;
        if ($pid == 0) {
            my @b = map { $_ . $long } 1 .. 3;
            @a = ();
            exit(0);
        }
        push @children, $pid;
    }
    waitpid($_, 0) for @children;
}

$| = 1;
work();
print "half\n";
<STDIN>;
work();
