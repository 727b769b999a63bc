package dev.fathom.examples;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.util.Arrays;
import java.util.stream.IntStream;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

import com.fasterxml.jackson.databind.JsonNode;

import dev.fathom.examples.ModelConfig.Sharing;

/** Which layers are tied, and where their weights come from. */
class LayerTyingTest {

    private static String sources(LayerInit init, LayerTying tying) {
        return IntStream.range(0, tying.slots()).mapToObj(slot -> Arrays.toString(init.sources(tying, slot)))
                .reduce("", String::concat);
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            CYCLE           | 6 | 3 | 0 2 4, 1 3 5
            CYCLE           | 6 | 2 | 0 3, 1 4, 2 5
            SEQUENCE        | 6 | 3 | 0 1 2, 3 4 5
            MIDDLE_CYCLE    | 8 | 3 | 1 3 5, 2 4 6
            MIDDLE_CYCLE    | 8 | 2 | 1 4, 2 5, 3 6
            MIDDLE_SEQUENCE | 8 | 3 | 1 2 3, 4 5 6
            """)
    void layersOfASlot(Sharing sharing, int layers, int recursions, String expected) {
        LayerTying tying = new LayerTying(sharing, layers, recursions);
        StringBuilder text = new StringBuilder();
        for (int slot = 0; slot < tying.slots(); slot++) {
            text.append(slot == 0 ? "" : ",");
            for (int depth = 0; depth < recursions; depth++) text.append(' ').append(tying.layer(slot, depth));
        }
        assertEquals(expected, text.substring(1));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', textBlock = """
            Gemma     | 18 | 2 | 0 2 4 6 8 11 13 15 17
            TinyLlama | 22 | 2 | 0 2 4 6 8 10 13 15 17 19 21
            Pythia    | 16 | 2 | 0 2 4 6 9 11 13 15
            """)
    void stepsOfThePapersModels(String model, int layers, int recursions, String expected) {
        LayerTying tying = new LayerTying(Sharing.CYCLE, layers, recursions);
        String steps = "[" + expected.replace(" ", "][") + "]";
        assertEquals(steps, sources(LayerInit.STEPWISE, tying));
        assertEquals(steps, sources(LayerInit.STEPWISE, new LayerTying(Sharing.SEQUENCE, layers, recursions)));
    }

    @Test
    void initsOfABlockBetweenItsEnds() {
        LayerTying tying = new LayerTying(Sharing.MIDDLE_CYCLE, 11, 3);
        assertEquals("[1][5][9]", sources(LayerInit.STEPWISE, tying));
        assertEquals("[1][2][3]", sources(LayerInit.LOWER, tying));
        assertEquals("[7][8][9]", sources(LayerInit.UPPER, tying));
        assertEquals("[1, 4, 7][2, 5, 8][3, 6, 9]", sources(LayerInit.AVERAGE, tying));
        assertEquals("[1, 2, 3][4, 5, 6][7, 8, 9]",
                sources(LayerInit.AVERAGE, new LayerTying(Sharing.MIDDLE_SEQUENCE, 11, 3)));
    }

    @Test
    void initsOfAWholeBlock() {
        LayerTying tying = new LayerTying(Sharing.CYCLE, 6, 2);
        assertEquals("[0][2][5]", sources(LayerInit.STEPWISE, tying)); // 2.5 goes to the even 2
        assertEquals("[0][1][2]", sources(LayerInit.LOWER, tying));
        assertEquals("[3][4][5]", sources(LayerInit.UPPER, tying));
        assertEquals("[0, 3][1, 4][2, 5]", sources(LayerInit.AVERAGE, tying));
    }

    @Test
    void distancesAreThoseOfTheReference() throws IOException {
        JsonNode lists = ConversionGoldenTest.cases().get("spreads"); // from, to, count, the numbers
        assertTrue(lists.size() > 1000);
        for (JsonNode list : lists) {
            int[] numbers = TestModel.ints(list);
            assertArrayEquals(Arrays.copyOfRange(numbers, 3, numbers.length),
                    LayerInit.spread(numbers[0], numbers[1], numbers[2]), () -> list.toString());
        }
    }
}
